"""Each file holds one command; nothing heavy is imported before a command runs."""
