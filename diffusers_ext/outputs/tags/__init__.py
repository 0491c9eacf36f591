"""Read and write texts inside pictures and clips: one file for each kind, none of which decodes pixels."""
