"""Study quality: compare pictures with the ground truth."""
