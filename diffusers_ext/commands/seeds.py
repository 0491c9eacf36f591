"""Read seeds that people type: a number, or -1 for a random seed, which is printed for later use."""

import secrets

import typer

RANDOM = "-1"
_BITS = 32  # short enough to be typed again


def is_random(text: str) -> bool:
    """Return whether a random seed is asked for."""
    return text.strip() == RANDOM


def random_seed() -> int:
    """Draw a seed from the system's source of randomness."""
    return secrets.randbits(_BITS)


def seed_of(text: str) -> int:
    """Return the number that was given, or a random one, which is printed.

    Raises `ValueError` for any other text.
    """
    from ..sampling.call import seed_of

    if not is_random(text):
        return seed_of(text)
    seed = random_seed()
    typer.echo(f"seed {seed}, drawn at random")
    return seed
