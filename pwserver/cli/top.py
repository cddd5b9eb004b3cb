"""`pwserver top`: what the page shows, on a terminal.

The screen is drawn once a second from the monitor's samples; a key is read in between. The terminal
is put back as it was however this ends. What comes from the service may hold control characters, so
it is shown escaped.
"""

import contextlib
import os
import re
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pwserver.errors import ConfigError, ConnectionFailed, ExitCode
from pwserver.text import visible

_SAMPLES_MAX = 300
_POLL_S = 1.0
_BARS = " ▁▂▃▄▅▆▇█"

_OTHER_ROWS = 14
"""Rows of the screen that are neither applications nor events and log."""
_LEAVES = re.compile(b"[qQ\x04]|^$")
"""The keys that leave; nothing at all is the end of the terminal."""

Ask = Callable[[int], dict[str, Any]]
"""Returns what the page shows: of the samples those after a time, in ms."""


def show(ask: Ask) -> ExitCode:
    """Show the service until q is pressed. Raises `ConnectionFailed` if it is not there."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("top needs a terminal; `pwserver status` and /metrics are for programs.")
    samples: deque[dict[str, Any]] = deque(maxlen=_SAMPLES_MAX)
    told = ask(0)
    console = Console()
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            samples.extend(told["samples"])
            live.update(_screen(told, list(samples), console), refresh=True)
            if any(map(_LEAVES.search, pressed(_POLL_S))):
                return ExitCode.OK
            try:
                told = ask(samples[-1]["t"] if samples else 0)
            except ConnectionFailed as error:
                told = told | {"troubles": [str(error)], "samples": []}


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], list[bytes]]]:
    """Yield a function that returns the keys of some seconds; the terminal does not echo them."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(wait_s: float) -> list[bytes]:
        if not select.select([terminal], [], [], wait_s)[0]:
            return []
        return [os.read(terminal, 64)]

    tty.setcbreak(terminal)
    try:
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _screen(
    told: dict[str, Any], samples: list[dict[str, Any]], console: Console
) -> RenderableType:
    parts: list[RenderableType] = [_state(told)]
    if samples:
        parts.append(_charts(samples, console.width))
        parts.append(_connections(samples[-1]))
    parts.append(_applications(told["applications"]))
    room = console.height - _OTHER_ROWS - len(told["applications"])
    if room > 2:
        parts.append(_last(told, room - 2))
    return Group(*parts, Text("q leaves", style="dim"))


def _state(told: dict[str, Any]) -> RenderableType:
    troubles = told["troubles"]
    text = Text()
    text.append("pwserver  ", style="bold")
    if troubles:
        text.append("▲ " + "; ".join(map(visible, troubles)), style="bold red")
    else:
        text.append("● all is well", style="bold green")
    text.append(f"   {told['users']:,} users   up {told['uptime_s']:,} s", style="dim")
    return text


def _charts(samples: list[dict[str, Any]], width: int) -> Table:
    """Return a line for each number: its name, its present value, and the last minutes of it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, min_width=9)
    table.add_column(no_wrap=True, style="cyan")
    room = max(10, width - 36)
    for name, of, unit in _LINES:
        values = [of(sample) for sample in samples][-room:]
        table.add_row(name, _shown(values[-1], unit), bars(values))
    return table


_LINES: list[tuple[str, Callable[[dict[str, Any]], float | None], str]] = [
    ("saves/s", lambda sample: sample["rates"][0], ""),
    ("reads/s", lambda sample: sample["rates"][1], ""),
    ("counts/s", lambda sample: sample["rates"][2], ""),
    ("half of saves in", lambda sample: sample["save_ms"][0], " ms"),
    ("99 % of saves in", lambda sample: sample["save_ms"][2], " ms"),
    ("99 % of reads in", lambda sample: sample["read_ms"][2], " ms"),
    ("changes a commit", lambda sample: sample["batch"], ""),
    ("connections", lambda sample: sum(sample["connections"]), ""),
    ("users", lambda sample: sample["users"], ""),
]


def bars(values: Sequence[float | None]) -> str:
    """Return a bar for each value, the greatest of them as high as a line; a gap for None."""
    top = max((value for value in values if value is not None), default=0) or 1
    last = len(_BARS) - 1
    return "".join(
        " " if value is None else _BARS[min(last, -(-int(value * last * 1000 / top) // 1000))]
        for value in values
    )


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 0 if value >= 100 or value == int(value) else 2
    return f"{value:,.{digits}f}{unit}"


def _connections(sample: dict[str, Any]) -> Text:
    by_worker = [f"worker {place} {open_}" for place, open_ in enumerate(sample["connections"], 1)]
    return Text(f"connections by worker: {', '.join(by_worker)}", style="dim")


def _applications(applications: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column("application", style="bold", overflow="ellipsis", no_wrap=True)
    for name in ("saves", "reads", "counts", "denied"):
        table.add_column(f"{name}/s", justify="right")
    table.add_column("in all", justify="right")
    for each in applications:
        rates = [_shown(each[name], "") for name in ("saves", "reads", "counts", "denied")]
        table.add_row(Text(visible(each["name"])), *rates, f"{each['did']:,}")
    return table


def _last(told: dict[str, Any], room: int) -> Panel:
    """Return the last events, or the last lines of the log."""
    events = [
        f"{time.strftime('%H:%M:%S', time.localtime(each['t'] / 1000))} {each['text']}"
        for each in told["events"][-(room // 2) :]
    ]
    lines = events + told["log"][len(events) - room :]
    text = Text("\n".join(map(visible, lines)), overflow="ellipsis", no_wrap=True)
    return Panel(text, title="events and log", title_align="left", border_style="dim")
