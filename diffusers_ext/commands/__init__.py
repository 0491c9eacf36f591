"""One command per file; nothing heavy is imported before a command runs."""
