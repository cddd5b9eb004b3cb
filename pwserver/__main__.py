"""The entry point of the `pwserver` command.

Nothing is imported before the current folder is out of the way: whoever wrote a `workers` or a
`msgspec.py` there would have it run. `python -m` puts that folder first.
"""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    _leave_current_folder_out()
    import os  # noqa: PLC0415
    import signal  # noqa: PLC0415

    if os.getpid() == 1:  # the kernel ignores the signals for which a process 1 has no handler
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    hears = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if hears:  # while modules are loaded, it ends this without a word
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pwserver.cli.main import run  # noqa: PLC0415

    if hears:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run())


def _leave_current_folder_out() -> None:
    """Import nothing from the current folder, unless this package itself is there."""
    import os  # noqa: PLC0415 - loaded already, whatever folder is current

    def is_current(entry: str) -> bool:
        try:
            return os.path.samefile(entry or os.curdir, os.curdir)
        except OSError:  # there is no such folder, or no current one
            return not os.path.isabs(entry)

    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    of_python = (sys.prefix, sys.base_prefix)
    if not is_current(ours):
        sys.path[:] = [
            entry for entry in sys.path if entry.startswith(of_python) or not is_current(entry)
        ]


if __name__ == "__main__":
    main()
