"""Seeds as people give them: a number, or -1 for a random one, which is said so that it can be made again."""

import secrets

import typer

RANDOM = "-1"
_BITS = 32  # short enough to be typed again


def is_random(text: str) -> bool:
    """Whether a random seed is asked for."""
    return text.strip() == RANDOM


def random_seed() -> int:
    """A seed that nobody chose, from the system's source of randomness."""
    return secrets.randbits(_BITS)


def seed_of(text: str) -> int:
    """The number that was given, or a random one, which is printed; `ValueError` for anything else."""
    from ..call import seed_of

    if not is_random(text):
        return seed_of(text)
    seed = random_seed()
    typer.echo(f"seed {seed}, drawn at random")
    return seed
