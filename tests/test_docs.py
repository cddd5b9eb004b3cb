"""The README says what the program does: its tables are made from the code, and compared here.

Run this file as a program to write the tables anew.
"""

import re
from pathlib import Path

import msgspec
import pytest

from pwserver.config import settings_table
from pwserver.errors import EXIT_CODE_MEANINGS
from workers.commands import SAVE_NAMED, SAVE_PLAIN, TABLE

README = Path(__file__).parent.parent / "README.md"


def commands_table() -> str:
    """Return the reference of messages; what may be left out stands in brackets."""
    rows = ["| message | fields | reply | what it does |", "| --- | --- | --- | --- |"]
    for command in TABLE:
        message = command.message
        required = [field.name for field in msgspec.structs.fields(message) if field.required]
        fields = [f"`{name}`" for name in required]
        if command is SAVE_NAMED:  # the row of those saves that have one of these
            fields += ["`username`", "[`labels`]", "[`request_id`]"]
        elif command is not SAVE_PLAIN:
            optional = [name for name in message.__struct_fields__ if name not in required]
            fields += [f"[`{name}`]" for name in optional if name != "id"]
        rows.append(
            f"| `{message.__struct_config__.tag}` | {', '.join(fields) or '-'} "
            f"| {command.reply} | {command.does} |"
        )
    return "\n".join(rows)


def exit_codes_table() -> str:
    """Return the list of exit codes."""
    rows = ["| exit code | meaning |", "| --- | --- |"]
    rows += [f"| {code.value} | {meaning} |" for code, meaning in EXIT_CODE_MEANINGS.items()]
    return "\n".join(rows)


TABLES = {
    "commands": commands_table,
    "settings": settings_table,
    "exit codes": exit_codes_table,
}


def between(name: str) -> re.Pattern[str]:
    """Return what finds the text between the marks of a table."""
    return re.compile(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(<!-- end of {name} -->)", re.S)


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_is_up_to_date(name: str) -> None:
    """A command, setting or exit code that the README does not have, or has otherwise, fails."""
    found = between(name).search(README.read_text())
    assert found, f"the README has no marks for {name}"
    assert found[2].strip() == TABLES[name](), "run: python -m tests.test_docs"


def test_the_readme_names_every_command_of_the_command_line() -> None:
    """What can be typed is documented."""
    from pwserver.cli import app  # noqa: PLC0415

    names = [name for name in app if not name.startswith("-")]
    text = README.read_text().replace("`pwserver ", "`")
    assert "serve" in names
    assert not [name for name in names if f"`{name}`" not in text]


def test_every_file_says_what_it_is_for() -> None:
    """Each module has a docstring, and none has grown beyond what can be read at a sitting."""
    for folder in ("pwserver", "workers", "benchmarks"):
        for file in (README.parent / folder).glob("*.py"):
            text = file.read_text()
            assert text.startswith('"""'), file
            assert text.count("\n") <= 400, file


if __name__ == "__main__":
    text = README.read_text()
    for name, make in TABLES.items():
        found = between(name).search(text)
        assert found
        text = f"{text[: found.start()]}{found[1]}{make()}\n{found[3]}{text[found.end() :]}"
    README.write_text(text)
