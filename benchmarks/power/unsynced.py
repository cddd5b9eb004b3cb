"""The service with `PRAGMA synchronous=OFF`: it acknowledges what is not on the disk.

Run in the service's place, as `python -m power.unsynced serve ...`. multiprocessing imports the
main module in every child, so all processes come by here before they open anything.
"""

from __future__ import annotations

from pwserver.__main__ import main
from workers import database

database.PRAGMAS["synchronous"] = "off"

if __name__ == "__main__":
    main()
