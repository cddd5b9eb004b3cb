"""The entry point of the `pwserver` command.

Light on purpose: what must be in place before anything is loaded is done first.
"""

import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if os.getpid() == 1:  # the kernel ignores the signals for which a process 1 has no handler
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from pwserver.cli import run  # noqa: PLC0415

    sys.exit(run())


if __name__ == "__main__":
    main()
