"""Pipelines of diffusers together with methods, and parts for pipelines that users build."""
