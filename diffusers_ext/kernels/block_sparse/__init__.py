"""Attention over the blocks of a plan: one reference, and back-ends that are tested against it."""
