"""What people and programs get to see of a run: tables on the terminal, one JSON object in a file.

Works on results alone; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from benchmarks.client.wire import Point
from benchmarks.results.campaign import PERCENTILES, Plan, Result
from benchmarks.results.machine import machine
from benchmarks.results.ratios import Ratio, all_ratios
from benchmarks.results.sheets import Sheet
from benchmarks.results.subjects import Subject
from benchmarks.results.terminal import print_sheet, terminal

SIZE = ("connec-\ntions", "in\nflight")
TAKEN = ("client\nCPU", "server\nus", "kernel")
RATES = ("requests/s", "lowest", "highest")


def size_of(point: Point) -> tuple[str, str]:
    """Return what stands in the columns of a size; `once` is a connection for each request."""
    return str(point.connections), "once" if point.once else str(point.depth)


def label(subject: Subject, subjects: Iterable[Subject]) -> str:
    """Return a server's name, with its number of users if the run compares several."""
    if len({each.users for each in subjects}) == 1:
        return subject.target.name
    return f"{subject.target.name}, {subject.users:,} users"


def show(results: list[Result], subjects: list[Subject]) -> None:
    """Print the results, the ratios between them, and that all saves are accounted for."""
    console = terminal()
    print_sheet(_results_sheet(results, subjects), console)
    ratios = all_ratios(results)
    if ratios:
        print_sheet(_ratios_sheet(ratios, subjects), console)
    for subject in subjects:
        console.print(f"{label(subject, subjects)}: {_account(subject)}")
        asked = dict.fromkeys(each.point.load for each in results)
        if unknown := [load for load in asked if load not in subject.loads]:
            console.print(f"{label(subject, subjects)}: does not know {', '.join(unknown)}.")


def _account(subject: Subject) -> str:
    text = (
        f"{subject.users_before:,} users before, {subject.saves:,} saves of new ones acknowledged, "
        f"{subject.users_after:,} users after"
    )
    if subject.versions:
        text += f"; {subject.versions:,} saves of prepared users, as many versions more"
    return f"{text}: every acknowledged save is counted."


def _results_sheet(results: list[Result], subjects: list[Subject]) -> Sheet:
    percentiles = [f"p{percent:g}" for percent in PERCENTILES]
    return Sheet(
        "Medians of the rounds (max: the worst of all); latencies in ms; client CPU as a share of "
        "one core; the server's processor time for a request in microseconds, and how much of it "
        "the kernel took",
        ["server", "load", *SIZE, *RATES, *percentiles, "max", *TAKEN],
        [
            [
                label(result.subject, subjects),
                result.point.load,
                *size_of(result.point),
                *(f"{figure:,.0f}" for figure in result.throughput.shown),
                *(f"{result.percentile_ms(percent).median:.2f}" for percent in PERCENTILES),
                f"{result.worst_ms:.1f}",
                f"{result.client_cpu.median:.0%}",
                f"{result.cpu_s.median:,.1f}" if result.cpu_s.median else "-",
                f"{result.kernel_share:.0%}" if result.cpu_s.median else "-",
            ]
            for result in results
        ],
        words=2,
    )


def _ratios_sheet(ratios: list[Ratio], subjects: list[Subject]) -> Sheet:
    return Sheet(
        "Ratios, taken round by round: requests/s, and how much longer p50 and p99",
        ["ratio", "of", *SIZE, *RATES, "p50", "p99"],
        [
            [
                ratio.kind,
                _common(ratio, subjects),
                *size_of(ratio.this.point),
                *(f"{figure:.2f}" for figure in ratio.throughput.shown),
                *(f"{ratio.latency(percent):.2f}" for percent in (50.0, 99.0)),
            ]
            for ratio in ratios
        ],
        words=2,
    )


def _common(ratio: Ratio, subjects: list[Subject]) -> str:
    """Name what both sides of a ratio have in common, as far as its own name does not say."""
    this, that = ratio.this, ratio.that
    if this.subject is that.subject:
        return label(this.subject, subjects)
    if this.subject.users != that.subject.users:
        return f"{this.subject.target.name} {this.point.load}"
    several = len({each.users for each in subjects}) > 1
    return this.point.load + (f", {this.subject.users:,} users" if several else "")


def write_json(
    path: Path, plan: Plan, results: list[Result], subjects: list[Subject], where: Path
) -> None:
    """Keep the whole run: machine, plan, every round, and the account of the saves."""
    document = {
        "machine": machine(where),
        "plan": plan,
        "servers": [
            {
                "server": each.target.name,
                "said": each.target.banner,
                "users": each.users,
                "users_before": each.users_before,
                "saves_acknowledged": each.saves,
                "versions_acknowledged": each.versions,
                "users_after": each.users_after,
            }
            for each in subjects
        ],
        "results": [
            {
                "server": each.subject.target.name,
                "users": each.subject.users,
                "point": each.point,
                "rounds": each.rounds,
            }
            for each in results
        ],
        "ratios": [
            {
                "ratio": each.kind,
                "of": _common(each, subjects),
                "point": each.this.point,
                "rounds": each.throughput.values,
            }
            for each in all_ratios(results)
        ],
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
