"""This folder writes files: safely, pictures with a record inside, clips, and where `generate` puts them."""
