"""A page for comparing, exploring, searching and batches. `gradio` is imported only when it starts."""
