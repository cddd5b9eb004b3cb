"""What the report of a run says in words, and the whole of it as Markdown (RESULTS.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.client.wire import Point
from benchmarks.comparison.aims import COUNT, MIB, SAVE, held
from benchmarks.comparison.alone import FIRST_REPLY, IDLE_MEMORY
from benchmarks.comparison.chapters import HURRIED, chapters
from benchmarks.comparison.kept import REFERENCE, Kept
from benchmarks.results.sheets import Chapter, Sheet, number

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


def write(path: Path, kept: Kept) -> None:
    """Write the report of a run."""
    path.write_text("\n".join(_lines(kept)) + "\n")


def _lines(kept: Kept) -> Iterator[str]:
    yield f"# Results\n\n{OPENING}\n"
    yield surroundings(kept)
    for chapter in chapters(kept):
        yield f"\n## {chapter.title}\n\n{chapter.says}"
        if tables := tables_of(chapter):
            yield f"\n{tables}"
    yield f"\n## What this does not show\n\n{limits()}"


def summary(kept: Kept) -> list[str]:
    """Return the most important of a run in a few sentences, as far as it was measured."""
    measured = [each for each in held(kept) if each.reached is not None]
    reached = sum(each.reached is True for each in measured)
    said = [HURRIED] if kept.quick else []
    said.append(f"It reaches {reached} of the {len(measured)} aims that were measured.")
    if saves := kept.find("throughput", REFERENCE, SAVE):
        said.append(
            f"Over 64 connections it saves {number(saves.throughput.median)} passwords a second, "
            f"and 99 % of them are answered within {number(saves.percentile_ms(99.0).median)} ms. "
            f"{_ratios(kept, 'throughput', SAVE)}"
        )
    if counts := kept.find("million", REFERENCE, COUNT):
        said.append(
            f"Of {counts.users:,} users it answers {number(counts.throughput.median)} counts a "
            f"second. {_ratios(kept, 'million', COUNT)}"
        )
    if reply := kept.figure("start", FIRST_REPLY):
        said.append(f"It has answered its first save {number(reply.median)} s after its start.")
    if memory := kept.figure("start", IDLE_MEMORY):
        said.append(f"All its processes together take {number(memory.median / MIB)} MiB when idle.")
    return said


def _ratios(kept: Kept, section: str, point: Point) -> str:
    """Say how many requests are answered for each one that each of the others answers."""
    names = dict.fromkeys(each.contender for each in kept.of(section))
    ratios = {name: kept.ratio(section, point, name) for name in names if name != REFERENCE}
    said = [f"{number(each.median)} times that of {name}" for name, each in ratios.items() if each]
    return f"Its rate is {', '.join(said)}." if said else ""


def surroundings(kept: Kept) -> str:
    """Return when, how and on what a run was made, as a table."""
    found = [("date", kept.began.replace("T", " ").replace("+00:00", " UTC"))]
    found += [(name, value) for name, value in kept.machine.items() if value]
    found.append(("command", kept.command))
    found.append(("took", f"{kept.took_s / 60:.0f} minutes"))
    found += [(f"{name}, left out", why) for name, why in kept.missing.items()]
    return _table(Sheet("", ["", ""], [list(pair) for pair in found], words=2))


def limits() -> str:
    """Return what a run does not show, as a list."""
    return "\n".join(f"- {each}" for each in LIMITS)


def tables_of(chapter: Chapter) -> str:
    """Return the tables of a chapter, each with its title before it."""
    return "\n\n".join(
        f"{sheet.title}:\n\n{_table(sheet)}" for sheet in chapter.sheets if sheet.rows
    )


def _table(sheet: Sheet) -> str:
    rule = ["---"] * sheet.words + ["---:"] * (len(sheet.headings) - sheet.words)
    return "\n".join(map(_row, [sheet.headings, rule, *sheet.rows]))


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
