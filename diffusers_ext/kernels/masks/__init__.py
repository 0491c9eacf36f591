"""Which tokens see which: one rule in each file."""
