"""Pipelines of diffusers together with methods and a sampler, and the recipes that they are saved as."""
