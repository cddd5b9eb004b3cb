"""The report of a run as one page of HTML that loads nothing: words, bars and tables.

`page.html` has its style, for a wide screen, a phone, dark mode and paper.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt

from benchmarks.comparison.chapters import chapters
from benchmarks.comparison.figures import figures
from benchmarks.comparison.kept import Kept
from benchmarks.comparison.report import OPENING, limits, summary, surroundings, tables_of

TEMPLATE = Path(__file__).with_name("page.html")


def write(path: Path, kept: Kept) -> None:
    """Make the page of a run."""
    path.write_text(page(kept))


def page(kept: Kept) -> str:
    """Return the page of a run."""
    render = MarkdownIt("js-default").render  # with tables, and without HTML in the text
    drawn = figures(kept)
    sections = [
        (
            chapter.section,
            chapter.title,
            render(chapter.says),
            *drawn.get(chapter.section, []),
            render(tables_of(chapter)),
        )
        for chapter in chapters(kept)
    ]
    sections += [
        ("limits", "What this does not show", render(limits())),
        ("surroundings", "Where it was measured", render(surroundings(kept))),
    ]
    return Template(TEMPLATE.read_text()).substitute(
        summary=render(" ".join(summary(kept))),
        opening=render(OPENING),
        contents="\n".join(
            f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title, *_ in sections
        ),
        sections="\n".join(
            f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{"".join(parts)}</section>'
            for name, title, *parts in sections
        ),
    )
