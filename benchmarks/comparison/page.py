"""The report of a run as one page of HTML that loads nothing: text, tables, and drawings in it.

How it looks on a screen, on a phone and on paper is in `page.html`. Works on what was kept alone.
"""

from __future__ import annotations

import io
import re
from html import escape
from pathlib import Path
from string import Template

from matplotlib import style

from benchmarks.comparison.chapters import chapters
from benchmarks.comparison.charts import draw
from benchmarks.comparison.drawing import Chart
from benchmarks.comparison.kept import Kept
from benchmarks.comparison.story import LIMITS, OPENING, surroundings
from benchmarks.comparison.style import CHART_STYLE
from benchmarks.results.sheets import Chapter, Sheet

TEMPLATE = Path(__file__).with_name("page.html")

_ID = re.compile(r'\bid="([^"]+)"')
_REFERENCE = re.compile(r'(url\(#|href="#)([^")]+)')
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def write(path: Path, kept: Kept) -> None:
    """Make the page of a run."""
    path.write_text(page(kept))


def page(kept: Kept) -> str:
    """Return the page of a run."""
    with style.context(CHART_STYLE):
        drawn = draw(kept)
        parts = [_chapter(each, drawn) for each in chapters(kept)]
    return Template(TEMPLATE.read_text()).substitute(
        opening=escape(OPENING),
        surroundings=_pairs(surroundings(kept)),
        chapters="\n".join(parts),
        limits="\n".join(f"<li>{escape(each)}</li>" for each in LIMITS),
    )


def _pairs(pairs: list[tuple[str, str]]) -> str:
    return "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs
    )


def _chapter(chapter: Chapter, drawn: list[Chart]) -> str:
    figures = [_figure(each) for each in drawn if each.section == chapter.section]
    return "\n".join(
        [
            f'<section id="{chapter.section}">',
            f"<h2>{escape(chapter.title)}</h2>",
            f"<p>{escape(chapter.says)}</p>",
            f'<div class="charts">{"".join(figures)}</div>' if figures else "",
            *(_table(each) for each in chapter.sheets if each.rows),
            "</section>",
        ]
    )


def _table(sheet: Sheet) -> str:
    def cells(tag: str, row: list[str]) -> str:
        return "".join(
            f"<{tag}{'' if place < sheet.words else ' class=figure'}>{escape(text)}</{tag}>"
            for place, text in enumerate(row)
        )

    lines = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in sheet.rows)
    title = escape(sheet.title)
    return (
        f'<div class="table" role="region" aria-label="{title}" tabindex="0"><table>'
        f"<caption>{title}</caption>\n<thead><tr>{cells('th', sheet.headings)}</tr></thead>\n"
        f"<tbody>{lines}</tbody></table></div>"
    )


def _figure(chart: Chart) -> str:
    caption = f"<figcaption>{escape(chart.caption)}</figcaption>"
    return f"<figure>{_svg(chart)}{caption}</figure>\n"


def _svg(chart: Chart) -> str:
    """Return a drawing as part of a page: with its words, and ids that no other drawing has."""
    file = io.StringIO()
    chart.figure.savefig(file, format="svg", metadata=_NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = _ID.sub(rf'id="{chart.name}-\1"', text)
    text = _REFERENCE.sub(rf"\g<1>{chart.name}-\g<2>", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(chart.says)}"', 1)
