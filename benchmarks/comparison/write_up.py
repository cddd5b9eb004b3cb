"""RESULTS.md: the report of a run in Markdown, to be kept beside the code that it measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.comparison.chapters import chapters
from benchmarks.comparison.kept import Kept
from benchmarks.comparison.story import LIMITS, OPENING, surroundings
from benchmarks.results.sheets import Chapter, Sheet


def write(path: Path, kept: Kept) -> None:
    """Write the report of a run."""
    path.write_text("\n".join(_lines(kept)) + "\n")


def _lines(kept: Kept) -> Iterator[str]:
    yield "# Results"
    yield f"\n{OPENING}\n"
    yield from _table(Sheet("", ["", ""], [list(pair) for pair in surroundings(kept)], words=2))
    for chapter in chapters(kept):
        yield from _chapter(chapter)
    yield "\n## What this does not show\n"
    yield from (f"- {each}" for each in LIMITS)


def _chapter(chapter: Chapter) -> Iterator[str]:
    yield f"\n## {chapter.title}\n\n{chapter.says}"
    for sheet in chapter.sheets:
        if sheet.rows:
            yield f"\n{sheet.title}:\n"
            yield from _table(sheet)


def _table(sheet: Sheet) -> Iterator[str]:
    figures = len(sheet.headings) - sheet.words
    yield _row(sheet.headings)
    yield _row(["---"] * sheet.words + ["---:"] * figures)
    yield from map(_row, sheet.rows)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
