"""The tables of the benchmarks: at any width a figure is in one piece, and prose wraps at words."""

import io
import re

import pytest
from rich.console import Console

from benchmarks.results.sheets import Chapter, Sheet
from benchmarks.results.terminal import print_sheet, show

HEADINGS = ["server", "load", "connec-\ntions", "requests/s", "lowest", "highest", "p50", "p99.9"]
ROWS = [
    ["pwserver", "save", "1", "5,307", "4,998", "5,602", "0.18", "1.07"],
    ["postgresql", "named", "1,024", "1,507,000", "1,234,567", "2,345,678", "10.25", "1,234.57"],
]
SHEET = Sheet("Medians of the rounds (max: the worst of all); latencies in ms", HEADINGS, ROWS, 2)


def printed(sheet: Sheet, width: int) -> str:
    """Return a table as a terminal of some width shows it."""
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    with console.capture() as captured:
        print_sheet(sheet, console)
    return captured.get()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 150])
@pytest.mark.parametrize("words", [0, 1, 2])
def test_figures_stay_whole(width: int, words: int) -> None:
    """Whatever the width, each figure and each word is there, and no line is too long."""
    text = printed(Sheet(SHEET.title, HEADINGS, ROWS, words), width)
    shown = set(re.split(r"[\s│┃]+|,(?!\d)", text))
    for row in ROWS:
        assert set(row) <= shown, text
    assert max(map(len, text.splitlines())) <= width, text


def test_a_table_is_one_where_it_fits() -> None:
    """Each row is on one line of a wide terminal, and says what its figures are on a narrow one."""
    wide, narrow = printed(SHEET, 150).splitlines(), printed(SHEET, 60)
    assert any(all(cell in line for cell in ROWS[1]) for line in wide)
    assert "\npostgresql, named\n  connections 1,024, requests/s 1,507,000," in narrow


def test_prose_wraps_at_words(capsys: pytest.CaptureFixture[str]) -> None:
    """What a chapter says is never cut within a word."""
    says = "Saves of 4,096 characters wait for the disk, and counts do not. " * 5
    show([Chapter("saves", "Saves", says, [SHEET])])
    out = capsys.readouterr().out
    assert set(says.split()) <= set(out.split())
