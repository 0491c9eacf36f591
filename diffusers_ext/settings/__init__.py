"""Settings of methods: text to typed values and back."""
