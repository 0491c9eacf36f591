"""Words of prompts: noun phrases, their places, and their tokens."""
