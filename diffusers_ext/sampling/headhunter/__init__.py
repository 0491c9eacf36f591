"""Search for the attention heads that SoftPAG should perturb."""
