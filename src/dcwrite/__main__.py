"""`python -m dcwrite`: the same as the command `dcwrite`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="dcwrite")
