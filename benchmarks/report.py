"""What people and programs get to see of a run: tables on the terminal, one JSON object in a file.

Works on results alone; measures nothing.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from campaign import PERCENTILES, Plan, Result, Subject
from rich.console import Console
from rich.table import Table

PIPED_COLUMNS = 150
"""Wide enough for every column when there is no terminal to ask."""

WORDS = ("server", "load")
"""The columns that are not figures."""


def label(subject: Subject, subjects: Iterable[Subject]) -> str:
    """Return a server's name, with its number of users if the run compares several."""
    if len({each.users for each in subjects}) == 1:
        return subject.target.name
    return f"{subject.target.name}, {subject.users:,} users"


def show(results: list[Result], subjects: list[Subject]) -> None:
    """Print the results, and the ratios between servers and between numbers of users."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_COLUMNS
    console.print(_results_table(results, subjects))
    growth = _growth_table(results)
    if growth.row_count:
        console.print(growth)
    for subject in subjects:
        console.print(
            f"{label(subject, subjects)}: {subject.users_before:,} users before, "
            f"{subject.saves:,} saves acknowledged, {subject.users_before + subject.saves:,} users "
            "after: every acknowledged save is counted.",
            highlight=False,
        )


def _results_table(results: list[Result], subjects: list[Subject]) -> Table:
    rivals = sorted({each.target.name for each in subjects} - {subjects[0].target.name})
    table = Table(title="Medians of the rounds (max: the worst of all); latencies in ms")
    percentiles = [f"p{percent:g}" for percent in PERCENTILES]
    ratios = [f"x {rival}" for rival in rivals]
    _add_columns(table, "server", "load")
    _add_columns(table, "connec-\ntions", "in\nflight", "requests/s", "lowest", "highest")
    _add_columns(table, *percentiles, "max", "client\nCPU", *ratios)
    point = results[0].point
    for result in results:
        if result.point.load != point.load:
            table.add_section()
        point = result.point
        lowest, highest = result.throughput_range
        table.add_row(
            label(result.subject, subjects),
            point.load,
            str(point.connections),
            str(point.depth),
            *(f"{figure:,.0f}" for figure in (result.throughput, lowest, highest)),
            *(f"{result.percentile_ms(percent):.2f}" for percent in PERCENTILES),
            f"{result.worst_ms:.1f}",
            f"{result.client_cpu:.0%}",
            *(_ratio(result, _rival(results, result, rival)) for rival in rivals),
        )
    return table


def _add_columns(table: Table, *headings: str) -> None:
    """Add a column for each heading; on a narrow terminal figures fold rather than lose digits."""
    for heading in headings:
        justify: Literal["left", "right"] = "left" if heading in WORDS else "right"
        table.add_column(heading, justify=justify, overflow="fold")


def _rival(results: list[Result], result: Result, name: str) -> Result | None:
    """Find another server's result at the same point and number of users."""
    if result.subject.target.name == name:
        return None
    here = (name, result.point, result.subject.users)
    for each in results:
        if (each.subject.target.name, each.point, each.subject.users) == here:
            return each
    return None


def _ratio(result: Result, rival: Result | None) -> str:
    return f"{result.throughput / rival.throughput:.2f}" if rival and rival.throughput else ""


def _growth_table(results: list[Result]) -> Table:
    """Compare the counts of one server at its fewest users with those at more."""
    table = Table(title="number_of_users as the book grows: times slower than with fewer users")
    _add_columns(table, "server", "users", "than with", "connec-\ntions", "in\nflight")
    _add_columns(table, "by\nrequests/s", "by p50", "by p99")
    counts = [each for each in results if each.point.load == "count" and each.throughput]
    for large in counts:
        name = large.subject.target.name
        same = [r for r in counts if r.point == large.point and r.subject.target.name == name]
        small = min(same, key=lambda each: each.subject.users)
        if small.subject.users == large.subject.users:
            continue
        table.add_row(
            name,
            f"{large.subject.users:,}",
            f"{small.subject.users:,}",
            str(large.point.connections),
            str(large.point.depth),
            f"{small.throughput / large.throughput:.2f}",
            *(f"{large.percentile_ms(p) / small.percentile_ms(p):.2f}" for p in (50.0, 99.0)),
        )
    return table


def machine(directory: Path) -> dict[str, object]:
    """Describe what the figures depend on: cores, kernel, Python and the file system written to."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": filesystem(directory),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def filesystem(directory: Path) -> str:
    """Return the type of the file system that `directory` is on, such as ext4 or tmpfs."""
    deepest, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, type_, *_ = line.split()
        if directory.resolve().is_relative_to(mounted) and len(mounted) >= len(deepest):
            deepest, kind = mounted, type_
    return kind


def write_json(
    path: Path, plan: Plan, results: list[Result], subjects: list[Subject], where: Path
) -> None:
    """Keep the whole run: machine, plan, every round, and the account of the saves."""
    document = {
        "machine": machine(where),
        "plan": asdict(plan),
        "servers": [
            {
                "server": each.target.name,
                "said": each.target.banner,
                "users": each.users,
                "users_before": each.users_before,
                "saves_acknowledged": each.saves,
                "users_after": each.users_before + each.saves,
            }
            for each in subjects
        ],
        "results": [_document(result) for result in results],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _document(result: Result) -> dict[str, object]:
    return {
        "server": result.subject.target.name,
        "users": result.subject.users,
        **asdict(result.point),
        "throughput": result.throughput,
        "percentiles_ms": _named({p: result.percentile_ms(p) for p in PERCENTILES}),
        "worst_ms": result.worst_ms,
        "client_cpu": result.client_cpu,
        "rounds": [
            {**asdict(each), "percentiles_ms": _named(each.percentiles_ms)}
            for each in result.rounds
        ],
    }


def _named(percentiles: dict[float, float]) -> dict[str, float]:
    return {f"p{percent:g}": figure for percent, figure in percentiles.items()}
