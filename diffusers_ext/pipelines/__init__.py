"""Parts of diffusers pipelines that users put into pipelines of their own."""
