"""Time cases, each with its check."""
