"""The service without its limit on wrong guesses, to be measured by who guesses wrong all the time.

    python -m benchmarks.servers.unlimited serve ...

The same as `pwserver` but for that. The fork server is told to load this module too, so what is
changed here is changed in the workers.
"""

from __future__ import annotations

from pwserver.__main__ import main
from pwserver.server import supervisor
from workers.auth.throttle import Key, Limit, Throttle


def no_limit(self: Throttle, *keys: Key) -> Limit:
    """Return a limit on nothing."""
    return Limit([])


Throttle.limit = no_limit  # type: ignore[method-assign]

if __name__ == "__main__":
    supervisor._PRELOAD.append("benchmarks.servers.unlimited")
    main()
