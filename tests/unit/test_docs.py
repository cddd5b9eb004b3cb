"""The documents say what the program does: their tables are made from the code, and compared here.

Run this file as a program to write the tables again.
"""

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pwserver.config import settings_table
from pwserver.errors import EXIT_CODE_MEANINGS
from workers.auth.applications import ANYBODY, KNOWN
from workers.serving.commands import (
    GENERATE,
    GENERATE_NAMED,
    SAVE_NAMED,
    SAVE_ONCE,
    SAVE_PLAIN,
    TABLE,
    Command,
)

PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
PROTOCOL = PROJECT / "docs" / "protocol.md"
OPERATIONS = PROJECT / "docs" / "operations.md"


def commands_table() -> str:
    """Return the reference of messages; what may be left out stands in brackets."""
    rows = [
        "| message | fields | reply | what it does | who may |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| `{command.message.__struct_config__.tag}` | {_fields(command)} "
        f"| {command.reply} | {command.does} | {_who_may(command)} |"
        for command in TABLE
    ]
    return "\n".join(rows)


NAMED = ["username", "labels", "if_version", "request_id"]
"""The fields that make a save one under a name: they are in a row of their own."""


def _fields(command: Command) -> str:
    fields = msgspec.structs.fields(command.message)
    required = [field.name for field in fields if field.required]
    optional = [name for field in fields if (name := field.name) not in (*required, "id")]
    if command is SAVE_ONCE:
        required.append("request_id")
    if command in (SAVE_PLAIN, SAVE_ONCE, GENERATE):
        optional = [name for name in optional if name not in NAMED]
    elif command in (SAVE_NAMED, GENERATE_NAMED):
        required.append("username")
        optional.remove("username")
    return (
        ", ".join([f"`{name}`" for name in required] + [f"[`{name}`]" for name in optional]) or "-"
    )


def _who_may(command: Command) -> str:
    """Say whom the service does it for."""
    if command.right == ANYBODY:
        return "anybody"
    known = "applications" if command.right == KNOWN else f"applications with `{command.right}`"
    return f"{known}, guests" if command.guests else known


def exit_codes_table() -> str:
    """Return the list of exit codes."""
    rows = ["| exit code | meaning |", "| --- | --- |"]
    rows += [f"| {code.value} | {meaning} |" for code, meaning in EXIT_CODE_MEANINGS.items()]
    return "\n".join(rows)


TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "commands": (PROTOCOL, commands_table),
    "settings": (OPERATIONS, settings_table),
    "exit codes": (OPERATIONS, exit_codes_table),
}
"""Each table: the document that has it, and what makes it."""


def between(name: str) -> re.Pattern[str]:
    """Return what finds the text between the marks of a table."""
    return re.compile(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(<!-- end of {name} -->)", re.S)


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_up_to_date(name: str) -> None:
    """A command, setting or exit code that its document lacks, or has otherwise, fails."""
    document, make = TABLES[name]
    found = between(name).search(document.read_text())
    assert found, f"{document.name} has no marks for {name}"
    assert found[2].strip() == make(), "run: python -m tests.unit.test_docs"


def test_the_documents_name_every_command_of_the_command_line() -> None:
    """What can be typed is documented."""
    from pwserver.cli.main import app  # noqa: PLC0415

    names = [name for name in app if not name.startswith("-")]
    text = (README.read_text() + OPERATIONS.read_text()).replace("`pwserver ", "`")
    assert "serve" in names
    assert not [name for name in names if f"`{name}`" not in text]


def test_every_file_says_what_it_is_for() -> None:
    """Each module has a docstring."""
    for folder in ("pwserver", "workers", "benchmarks"):
        for file in (PROJECT / folder).rglob("*.py"):
            assert file.read_text().startswith('"""'), file


if __name__ == "__main__":
    for name, (document, make) in TABLES.items():
        text = document.read_text()
        found = between(name).search(text)
        assert found
        text = f"{text[: found.start()]}{found[1]}{make()}\n{found[3]}{text[found.end() :]}"
        document.write_text(text)
