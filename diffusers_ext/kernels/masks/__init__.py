"""The rules by which tokens see each other, one in each file."""
