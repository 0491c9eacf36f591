"""Train the zoo's models on shapes world, by our own code, on any machine."""
