"""Measure how often pictures obey their prompts: generation, ground-truth verdicts, statistics, reports."""
