"""One training objective in each file."""
