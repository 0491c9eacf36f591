"""Make and store training data: latents, shards and pairs of a teacher."""
