"""Attention over the blocks of a plan: one definition, and back-ends that are judged by it."""
