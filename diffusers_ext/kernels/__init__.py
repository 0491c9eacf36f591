"""Pure tensor functions; nothing here knows diffusers or the rest of the package."""
