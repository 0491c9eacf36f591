"""Block plans: which blocks of keys each block of queries visits."""
