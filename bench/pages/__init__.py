"""Write the figures in pages and model cards."""
