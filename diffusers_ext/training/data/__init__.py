"""Training data: latents, shards and pairs of a teacher."""
