"""Does the picture obey the prompt? Batched generation, the ground-truth verdict, statistics and reports."""
