"""The service with `PRAGMA synchronous=OFF`: it acknowledges what is not on the disk.

Run in the service's place, as `python -m tests.trials.unsynced serve ...`. The fork
server is told to load this module too, so all processes come by here before they open anything.
"""

from __future__ import annotations

from pwserver.__main__ import main
from pwserver.server import supervisor
from workers.storage.sqlite import database

database.PRAGMAS["synchronous"] = "off"

if __name__ == "__main__":
    supervisor._PRELOAD.append("tests.trials.unsynced")
    main()
