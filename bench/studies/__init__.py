"""Studies of quality: pictures against ground truth."""
