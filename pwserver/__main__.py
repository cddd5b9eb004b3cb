"""The entry point of the `pwserver` command.

Light on purpose: multiprocessing imports the main module again in every child, which must not cost
them the command line's libraries.
"""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from pwserver.cli import run  # noqa: PLC0415

    sys.exit(run())


if __name__ == "__main__":
    main()
