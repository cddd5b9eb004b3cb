"""Log lines: one a record, for people or for programs."""

import json
import logging
import os
from collections.abc import Iterator

import pytest

from pwserver import logs
from pwserver.logs import Style


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Give the tests' own logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logs.configure("test", Style())
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(capfd: pytest.CaptureFixture[str], style: Style | None, message: str) -> list[str]:
    """Log a message as a warning, and something for debugging; return the lines."""
    logs.configure("worker 1", style)
    logging.getLogger("any").debug("details")
    logging.getLogger("any").warning("%s", message)
    return capfd.readouterr().err.splitlines()


def test_a_record_is_a_json_object_if_that_is_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is in it, it is one line that a program can read."""
    (line,) = logged(capfd, Style("json"), 'two\nlines, "quoted" \x1b[1m')
    record = json.loads(line)
    assert record.pop("time")[-5:] > ".000Z"
    assert record == {
        "level": "warning",
        "process": "worker 1",
        "pid": os.getpid(),
        "message": 'two\nlines, "quoted" \x1b[1m',
    }


def test_the_level_decides_what_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """A child that is set up later has the style of its parent, until another level is set."""
    assert logged(capfd, Style("text", "error"), "no") == []
    assert logged(capfd, None, "no") == []
    assert len(logged(capfd, Style("text", "debug"), "yes")) == 2
    logs.set_level("error")
    logging.getLogger("any").warning("no")
    assert capfd.readouterr().err == ""
    assert logged(capfd, None, "no") == []


def test_text_is_one_plain_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Control characters are shown by their numbers."""
    (line,) = logged(capfd, Style(), "two\nlines")
    assert line.endswith(r"Z WARNING worker 1: two\x0alines")
