"""Start the page of diffusers_ext: `python app.py`, which takes the options of `diffusers-ext app`."""

import sys

from diffusers_ext.cli import main

if __name__ == "__main__":
    main(["app", *sys.argv[1:]])
