"""What a run is shown as: a chapter for each section, with its tables.

The terminal, the page and RESULTS.md show the same chapters, so there is one account of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from benchmarks.comparison.aims import AS_FAST, COUNT, KIB, MIB, SAVE, Held, held
from benchmarks.comparison.alone import PER_IDLE
from benchmarks.comparison.bench import ANEW
from benchmarks.comparison.kept import REFERENCE, Kept, Measured
from benchmarks.results.sheets import NOTHING, Chapter, Sheet, number, range_of, rate, ratio, size
from benchmarks.results.spread import Spread

LATENCIES = (50.0, 90.0, 99.0, 99.9)
HURRIED = "This was a quick run, made to see that everything works: do not cite it."
RATIO_TITLE = f"{REFERENCE}, times as many requests a second as"


def chapters(kept: Kept) -> list[Chapter]:
    """Return what there is to show of a run: the aims, and each section that was finished."""
    shown = [_aims(kept, held(kept))]
    shown += [CHAPTERS[section](kept) for section in kept.sections]
    return shown


def _aims(kept: Kept, all_held: list[Held]) -> Chapter:
    reached = sum(each.reached is True for each in all_held)
    measured = sum(each.reached is not None for each in all_held)
    says = (
        f"{reached} of the {measured} that were measured are reached. A median counts; beside it "
        "stand the lowest and the highest round, and how many rounds reached the aim. Where "
        f"something is to make no difference, {AS_FAST:g} counts as none."
    )
    if kept.quick:
        says = f"{HURRIED} {says}"
    headings = ["aim", "must be", "median", "rounds", "reached"]
    return Chapter("aims", "What it must reach", says, [Sheet("Aims", headings, _held(all_held))])


def _held(all_held: Iterable[Held]) -> list[list[str]]:
    return [
        [
            each.aim.what,
            f"{'≤' if each.aim.at_most else '≥'} {each.aim.bound:g} {each.aim.unit}".strip(),
            rate(each.measured),
            range_of(each.measured),
            _verdict(each),
        ]
        for each in all_held
    ]


def _verdict(each: Held) -> str:
    if each.measured is None:
        return "not measured"
    word = "yes" if each.reached else "no"
    number_of_rounds = len(each.measured.values)
    return word if number_of_rounds < 2 else f"{word}, {each.rounds_reached} of {number_of_rounds}"


# --- Contenders. ---


def _throughput(kept: Kept) -> Chapter:
    measured = kept.of("throughput")
    sheets = []
    for load, of_load in _by_load(measured).items():
        sheets.append(_grid(f"{load}: requests a second", of_load, lambda m: rate(m.throughput)))
        rivals = [each for each in of_load if each.contender != REFERENCE]
        versus = _grid(f"{load}: {RATIO_TITLE}", rivals, lambda m: ratio(_against(kept, m)))
        sheets += [versus] if rivals else []
    usual = [each for each in measured if each.point in (SAVE, COUNT)]
    sheets += [_latencies("Latencies in ms with 64 connections", usual), _costs(usual)]
    says = (
        "All contenders in turn, one request in flight on each connection, or 8 connections with "
        "64 each; saves are on the disk when they are answered. mixed is nine saves and a count. "
        "A dash was not measured: the web servers take one request at a time, the baseline has a "
        "process for each of 64 connections, and those three were asked less, as they are slow."
    )
    return Chapter("throughput", "Against the others", says, sheets)


def _once(kept: Kept) -> Chapter:
    says = (
        f"{ANEW[0]} clients connect, ask one thing, hear the answer and close, again and again. "
        "pwserver's clients would keep their connection."
    )
    return Chapter("once", "A connection per request", says, _versus(kept, "once"))


def _million(kept: Kept) -> Chapter:
    users = max((each.users for each in kept.of("million")), default=0)
    says = f"Counts over 64 connections, of {users:,} users."
    return Chapter("million", "Counting many users", says, _versus(kept, "million"))


def _versus(kept: Kept, section: str) -> list[Sheet]:
    measured = kept.of(section)
    versus = _columns(
        "Medians of the rounds",
        measured,
        {
            "requests/s": lambda m: rate(m.throughput),
            "rounds": lambda m: range_of(m.throughput),
            "p50, ms": lambda m: rate(m.percentile_ms(50.0)),
            "p99, ms": lambda m: rate(m.percentile_ms(99.0)),
            "pwserver ÷ it": lambda m: (
                NOTHING if m.contender == REFERENCE else ratio(_against(kept, m))
            ),
        },
    )
    return [versus, _costs(measured)]


def _against(kept: Kept, rival: Measured) -> Spread | None:
    return kept.ratio(rival.section, rival.point, rival.contender, rival.users)


def _by_load(measured: Iterable[Measured]) -> dict[str, list[Measured]]:
    found: dict[str, list[Measured]] = {}
    for each in measured:
        found.setdefault(each.point.load, []).append(each)
    return found


_Axes = tuple[str, Callable[[Measured], str], Callable[[Measured], str]]
"""What stands in the corner of a table, and the row and the column of a figure."""

BY_SIZE: _Axes = ("connections", lambda m: m.contender, lambda m: size(m.point.size))
BY_USERS: _Axes = ("users", lambda m: f"{m.users:,}", lambda m: m.point.load)


def _grid(
    title: str,
    measured: Iterable[Measured],
    cell: Callable[[Measured], str],
    axes: _Axes = BY_SIZE,
) -> Sheet:
    """Return a table of what was measured, with a cell for each load."""
    corner, row, column = axes
    cells = {(row(each), column(each)): cell(each) for each in measured}
    columns = dict.fromkeys(place for _, place in cells)
    rows = dict.fromkeys(place for place, _ in cells)
    lines = [[name, *(cells.get((name, each), NOTHING) for each in columns)] for name in rows]
    return Sheet(title, [corner, *columns], lines)


def _columns(
    title: str, measured: Iterable[Measured], columns: dict[str, Callable[[Measured], str]]
) -> Sheet:
    """Return a table with a row for each load of each contender."""
    lines = [
        [each.point.load, each.contender, *(cell(each) for cell in columns.values())]
        for each in measured
    ]
    return Sheet(title, ["load", "contender", *columns], lines, words=2)


def _latencies(title: str, measured: Iterable[Measured]) -> Sheet:
    def percentile(percent: float) -> Callable[[Measured], str]:
        return lambda m: rate(m.percentile_ms(percent))

    columns = {f"p{percent:g}": percentile(percent) for percent in LATENCIES}
    return _columns(title, measured, {**columns, "worst": lambda m: number(m.worst_ms)})


def _costs(measured: Iterable[Measured]) -> Sheet:
    return _columns(
        "What the server took",
        measured,
        {
            "CPU s per million requests": lambda m: rate(m.cpu_s),
            "memory, MiB": lambda m: number(m.memory_bytes / MIB),
        },
    )


# --- pwserver. ---


def _book(kept: Kept) -> Chapter:
    users = max((each.users for each in kept.of("book")), default=0)
    says = (
        f"Loads of an application with a book of {users:,} users with names, and saves over TLS, "
        "beside the plain saves and counts of a guest, over 64 connections."
    )
    columns = {
        "requests/s": lambda m: rate(m.throughput),
        "rounds": lambda m: range_of(m.throughput),
        "p50, ms": lambda m: rate(m.percentile_ms(50.0)),
        "p99, ms": lambda m: rate(m.percentile_ms(99.0)),
    }
    measured = kept.of("book")
    sheets = [_columns("Medians of the rounds", measured, columns), _costs(measured)]
    return Chapter("book", "Names, reads and TLS", says, sheets)


def _growth(kept: Kept) -> Chapter:
    measured = kept.of("growth")
    memory = "Memory in MiB under load"
    sheets = [
        _grid("Requests a second", measured, lambda m: rate(m.throughput), BY_USERS),
        _grid(memory, measured, lambda m: number(m.memory_bytes / MIB), BY_USERS),
        _figures(kept, "growth"),
    ]
    says = "pwserver over 64 connections, with books of several sizes, all of them in turn."
    return Chapter("growth", "As the book grows", says, sheets)


def _workers(kept: Kept) -> Chapter:
    sheets = [
        _grid(f"{load}: requests a second", of_load, lambda m: rate(m.throughput))
        for load, of_load in _by_load(kept.of("workers")).items()
    ]
    says = "The load generator runs on the same cores, so more workers than cores gain nothing."
    return Chapter("workers", "Over workers", says, sheets)


def _idle(kept: Kept) -> Chapter:
    says = "The load is on 64 other connections."
    if each := kept.figure("idle", PER_IDLE):
        says += (
            f" An idle one takes {number(each.median / KIB)} KiB of the service's memory, and "
            "what the kernel keeps for a socket."
        )
    return Chapter("idle", "Beside 10,000 idle connections", says, _versus(kept, "idle"))


def _steady(kept: Kept) -> Chapter:
    measured = kept.of("steady")
    seconds = max((each.seconds for each in measured), default=0)
    says = f"Saves over 64 connections for {seconds:.0f} s without a pause."
    return Chapter("steady", "Without a pause", says, [_latencies("Latencies in ms", measured)])


def _start(kept: Kept) -> Chapter:
    says = "From the start of the program, its files in the kernel's cache, with 2 workers."
    return Chapter("start", "Start and idle memory", says, [_figures(kept, "start")])


def _limit(kept: Kept) -> Chapter:
    sheet = _figures(kept, "limit")
    for each in kept.of("limit"):
        name = f"{each.contender}, saves, {size(each.point.size)}"
        sheet.rows.append([name, rate(each.throughput), range_of(each.throughput)])
    says = (
        "One process that does nothing but executemany and COMMIT, synchronous=FULL, with no "
        "sockets and no sealing; the disk's own rate of fdatasync; and pwserver in the same rounds."
    )
    return Chapter("limit", "The limit", says, [sheet])


def _figures(kept: Kept, section: str) -> Sheet:
    """Return a table of what is no load; bytes are shown in MiB."""
    lines = []
    for each in kept.figures:
        if each.section == section:
            in_bytes = each.unit == "bytes"
            name = f"{each.name}, {'MiB' if in_bytes else each.unit}"
            spread = each.spread.over(MIB if in_bytes else 1)
            lines.append([name, rate(spread), range_of(spread)])
    return Sheet("Medians", ["what", "median", "rounds"], lines)


CHAPTERS: dict[str, Callable[[Kept], Chapter]] = {
    "throughput": _throughput,
    "once": _once,
    "million": _million,
    "book": _book,
    "growth": _growth,
    "workers": _workers,
    "idle": _idle,
    "steady": _steady,
    "start": _start,
    "limit": _limit,
}
