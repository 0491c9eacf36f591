"""`python -m diffusers_ext` is `diffusers-ext`."""

from .cli import main

if __name__ == "__main__":
    main()
