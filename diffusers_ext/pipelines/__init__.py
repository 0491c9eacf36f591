"""Pipelines of diffusers with methods and a sampler, their recipes, and parts for modular pipelines."""
