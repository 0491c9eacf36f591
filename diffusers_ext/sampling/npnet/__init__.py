"""NPNet turns noise into noise that suits a prompt (arXiv 2411.09502): network, weights, pairs, training."""
