"""What writes the figures in pages and model cards."""
