"""What the report of a run says in words: what was compared, where, and what that does not show."""

from __future__ import annotations

from benchmarks.comparison.kept import Kept

OPENING = (
    "pwserver, a password book that seals and stores each password, held against servers that "
    "keep the same rows with the same durability: a save is answered when it is on the disk. All "
    "were measured in turn within one run, on one machine, by the same load generator; figures "
    "are medians of the rounds, and a ratio is the median of the ratios of the rounds."
)

LIMITS = (
    "One machine, over loopback: no network, no second disk, no replica. With more cores, or the "
    "load on another machine, the ratios will be others.",
    "The load generator has its share of the same cores. A server that needs less CPU for a "
    "request leaves more of it to the generator, and one with more processes competes with it.",
    "It is a closed loop: a slow server is asked less often, so latencies are those of the "
    "requests that were made, not those of clients that keep coming.",
    "Only pwserver seals what it stores. The others keep passwords as they come, so they do less "
    "than they would have to; nor do they check a name, keep older versions or write a record.",
    "Redis runs as one server with its defaults but for the log. It could be sharded, have its "
    "log on a disk of its own, or sync once a second, which is faster and loses a second.",
    "PostgreSQL is untuned: default memory, no commit_delay, no pooler before it. Its clients "
    "speak through psycopg's libpq, which costs the load generator more than lines do; a client "
    "in C would ask it faster. Counting is count(*), which it answers by looking at all rows, "
    "where pwserver, Redis and many an application keep the number.",
    "FastAPI and Flask run as their documentation has it and one request at a time reaches "
    "SQLite; an application that gathered saves into batches would be another program.",
    "Gunicorn's sync workers close each connection behind its reply, so every request of theirs "
    "pays for a connection.",
    "A disk that says it has synced what it has not makes all of them faster, and equally so.",
    "Memory is PSS, where pages that processes share count in parts; run by another than root, it "
    "is RSS of processes that the kernel does not show, pwserver's among them, which is more.",
    "Minutes, not days: no backups, no vacuum, no full disk, no log of years.",
)


def surroundings(kept: Kept) -> list[tuple[str, str]]:
    """Return when, how and on what a run was made, as names and values."""
    found = [("date", kept.began.replace("T", " ").replace("+00:00", " UTC"))]
    found += [(name, value) for name, value in kept.machine.items() if value]
    found.append(("command", kept.command))
    found.append(("took", f"{kept.took_s / 60:.0f} minutes"))
    found += [(f"{name}, left out", why) for name, why in kept.missing.items()]
    return found
