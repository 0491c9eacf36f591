"""Each file holds one training objective."""
