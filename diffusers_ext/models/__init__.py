"""Everything known of a model before it runs; start with `checkpoint`, which a name is resolved to."""
