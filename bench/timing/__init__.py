"""Timed cases, each with its check."""
