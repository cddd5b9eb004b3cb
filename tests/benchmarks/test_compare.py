"""The comparison's report: what it says of a run is what the run kept, and nothing is made up."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.client.wire import BenchmarkFailed, Point, Size
from benchmarks.compare import SECTIONS
from benchmarks.comparison.aims import MILLION, held
from benchmarks.comparison.alone import (
    BOOK_LOADS,
    FIRST_REPLY,
    IDLE_MEMORY,
    OVER_TLS,
    PER_IDLE,
    WITH_IDLE,
)
from benchmarks.comparison.bench import ANEW, DEEP, SIZES, USUAL
from benchmarks.comparison.chapters import chapters
from benchmarks.comparison.kept import REFERENCE, Figure, Kept, Measured, read
from benchmarks.comparison.report import summary, write
from benchmarks.limit import APPENDED, BATCHES, rows
from benchmarks.results.campaign import PERCENTILES, Round
from benchmarks.results.spread import Spread

LEVELS = (0, 10, MILLION, 10 * MILLION)
SPEEDS = {"redis": 1.0, "postgres": 0.3, "fastapi": 0.02, "gunicorn": 0.015, "baseline": 0.07}
LOADING = re.compile(r"""(?:src|href|url\(|@import|xlink:href)\s*[=(]?\s*["']?\s*(?:https?:)?//""")


def measured(section: str, contender: str, point: Point, speed: float, users: int = 0) -> Measured:
    """Return a load whose rounds went at a speed, a little less and a little more."""
    waited_ms = point.connections * point.depth / speed * 1000
    some = [
        Round(
            throughput=speed * (0.9 + 0.1 * number),
            percentiles_ms={percent: waited_ms * percent / 50 for percent in PERCENTILES},
            worst_ms=waited_ms * 4,
            client_cpu=1.0,
            server_cpu_s=25.0,
            memory_bytes=90 * 2**20,
        )
        for number in range(3)
    ]
    return Measured(section, contender, users, point, 60.0, some)


def a_run(without: tuple[str, ...] = ()) -> Kept:
    """Return a run of all sections, but for contenders that were not there."""
    speeds = {REFERENCE: 1.0, **SPEEDS}
    kept = Kept(
        "python benchmarks/compare.py", "2026-01-02T03:04+00:00", {"kernel": "6.1"}, {}, quick=False
    )
    kept.sections = list(SECTIONS)
    for name in [each for each in speeds if each not in without]:
        speed = 50_000 * speeds[name]
        for load in ("save", "count", "mixed"):
            sizes = [each for each in SIZES if speeds[name] > 0.1 or each != DEEP]
            kept.measured += [
                measured("throughput", name, Point(load, *each), speed * share(each))
                for each in sizes
            ]
        kept.measured += [
            measured("once", name, Point("save", *ANEW), speed / 5),
            measured("million", name, Point("count", *USUAL), speed, MILLION),
        ]
    for users in LEVELS:
        for load in ("save", "count", "get")[: 3 if users else 2]:
            kept.measured.append(measured("growth", REFERENCE, Point(load, *USUAL), 50_000, users))
        name = f"database with {users:,} users"
        kept.figures.append(Figure("growth", REFERENCE, name, "bytes", [users * 150.0]))
    for load in BOOK_LOADS:
        kept.measured.append(measured("book", REFERENCE, Point(load, *USUAL), 50_000, 1_000))
    kept.measured.append(measured("book", OVER_TLS, Point("save", *USUAL), 30_000))
    for number in (1, 2):
        kept.measured.append(
            measured("workers", f"{REFERENCE}, {number} workers", Point("save", *USUAL), 40_000)
        )
    for name in (REFERENCE, WITH_IDLE):
        for load in ("save", "count"):
            kept.measured.append(measured("idle", name, Point(load, *USUAL), 50_000))
    kept.measured.append(measured("steady", REFERENCE, Point("save", *USUAL), 50_000))
    kept.measured.append(measured("limit", REFERENCE, Point("save", *DEEP), 280_000))
    kept.figures += [
        Figure("idle", REFERENCE, PER_IDLE, "bytes", [3 * 1024.0]),
        Figure("start", REFERENCE, FIRST_REPLY, "s", [0.3, 0.7, 0.4]),
        Figure("start", REFERENCE, IDLE_MEMORY, "bytes", [130.0 * 2**20]),
        Figure("limit", REFERENCE, APPENDED, "syncs/s", [3000.0]),
        *(Figure("limit", REFERENCE, rows(each), "rows/s", [3000.0 * each]) for each in BATCHES),
    ]
    return kept


def page(kept: Kept) -> str:
    """Return the page of a run; skip the test where what draws it is not installed."""
    pytest.importorskip("matplotlib", reason="matplotlib is of `[bench]`")
    from benchmarks.comparison import page  # noqa: PLC0415

    return page.page(kept)


def share(size: Size) -> float:
    """Return how much of its speed a server reaches at a size."""
    connections, depth, _ = size
    return min(1.0, connections / 64 + 0.05) * (3 if depth > 1 else 1)


def verdicts(kept: Kept) -> dict[str, bool | None]:
    return {each.aim.what: each.reached for each in held(kept)}


def test_median_decides_whether_an_aim_is_reached() -> None:
    """One slow start does not fail the aim, and is not hidden: it is told how many reached it."""
    start = next(each for each in held(a_run()) if each.aim.what == "start to first reply")
    assert start.reached
    assert start.rounds_reached == 2
    rows_shown = chapters(a_run())[0].sheets[0].rows
    assert ["start to first reply", "≤ 0.5 s", "0.40", "0.30 to 0.70", "yes, 2 of 3"] in rows_shown


def test_aims_know_which_way_is_better() -> None:
    """Of a ratio more is better, of memory less: neither is mistaken for the other."""
    found = verdicts(a_run())
    assert found["memory of the idle service, 2 workers"] is False
    assert found["memory of an idle connection"] is True
    assert found["save, 64: of redis"] is True
    assert found["get, 64: of counts"] is True
    assert found["save over TLS, 64: of plain ones"] is False
    assert found["count, 64, of a million users: of postgres"] is False


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    """A contender that is not installed leaves its aims open, and everything else as it is."""
    without = verdicts(a_run(without=("postgres", "fastapi")))
    assert without["save, 64: of postgres"] is None
    assert without["save, 64: of redis"] is True
    assert set(verdicts(Kept("", "", {}, {}, quick=False)).values()) == {None}


def test_a_short_run_reaches_no_aim_of_a_minute() -> None:
    """Ten seconds without a slow reply say nothing of a minute; a quick run says what it is."""
    kept = a_run()
    short = [replace(each, seconds=10.0) for each in kept.measured]
    hurried = replace(kept, measured=short, quick=True)
    assert verdicts(kept)["the worst reply of that minute"] is True
    assert verdicts(hurried)["the worst reply of that minute"] is None
    assert "do not cite it" in chapters(hurried)[0].says


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that was slow in one round was so for both, and that is not in their ratio."""
    kept = Kept("", "", {}, {}, quick=False)
    point = Point("save", *USUAL)
    kept.measured = [
        measured("throughput", REFERENCE, point, 20_000),
        measured("throughput", "redis", point, 10_000),
    ]
    ratio = kept.ratio("throughput", point, "redis")
    assert ratio is not None
    assert ratio.values == pytest.approx((2.0, 2.0, 2.0))
    assert kept.ratio("throughput", point, "postgres") is None


def test_a_kept_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Nothing is lost between a run and the page that is made of it later."""
    kept = a_run()
    kept.write(tmp_path / "run.json")
    assert read(tmp_path / "run.json") == kept
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_a_file_that_is_no_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Whoever names the wrong file is told so."""
    (tmp_path / "other.json").write_text('{"machine": 1}')
    with pytest.raises(BenchmarkFailed, match=r"other\.json is not the JSON of a comparison"):
        read(tmp_path / "other.json")
    with pytest.raises(BenchmarkFailed, match="cannot be read"):
        read(tmp_path / "none.json")


def test_the_page_holds_all_that_it_shows() -> None:
    """It loads nothing, ids are unique, each drawing has words, and each section is there."""
    html = page(a_run())
    assert not LOADING.search(html)
    assert "<script" not in html
    assert "<link" not in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert html.count("<svg") == html.count('<svg role="img" aria-label="') > len(SECTIONS)
    assert set(SECTIONS) <= set(ids)
    known = set(ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', html)) <= known
    assert {f'href="#{section}"' in html for section in SECTIONS} == {True}


def test_the_summary_says_what_was_measured_and_no_more() -> None:
    """The first words of the page are figures of the run; what was left out is not mentioned."""
    said = " ".join(summary(a_run(without=("postgres",))))
    assert "Over 64 connections it saves 50,000 passwords a second" in said
    assert "Its rate is 1.00 times that of redis, 50.0 times that of fastapi" in said
    assert "postgres" not in said
    assert summary(Kept("", "", {}, {}, quick=False)) == [
        "It reaches 0 of the 0 aims that were measured."
    ]


def test_the_page_of_a_run_cut_short_shows_what_there_is() -> None:
    """Whatever failed after the first section, that one can be looked at."""
    kept = a_run()
    kept.sections = ["once"]
    kept.measured = kept.of("once")
    kept.figures = []
    html = page(kept)
    assert 'id="once"' in html
    assert 'id="growth"' not in html


def test_results_hold_the_same_tables(tmp_path: Path) -> None:
    """RESULTS.md says what the page says: all tables, and what they do not show."""
    kept = a_run()
    write(tmp_path / "RESULTS.md", kept)
    text = (tmp_path / "RESULTS.md").read_text()
    for chapter in chapters(kept):
        assert f"## {chapter.title}" in text
        for sheet in chapter.sheets:
            assert f"{sheet.title}:" in text
    assert "## What this does not show" in text
    assert "| 10,000,000 |" in text


def test_spread_of_nothing_is_none() -> None:
    """There is no median of no rounds, so no figure can be made of it."""
    assert Spread.of([]) is None
    assert Spread.of([3.0, 1.0, 2.0]) == Spread((3.0, 1.0, 2.0))
