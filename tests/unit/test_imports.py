"""Which folder may import which: from the bottom up, and never in a circle.

Imports within functions and for types count as well: a folder that is imported late is imported.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

FLOORS = [
    ["pwserver"],
    ["pwserver.wire"],
    ["pwserver.client", "workers.book"],
    ["workers.storage"],
    ["workers.storage.sqlite", "workers.storage.postgres"],
    ["workers.audit", "workers.auth", "workers.tls"],
    ["workers.serving", "workers.admin", "workers.http"],
    ["workers"],
    ["pwserver.server", "pwserver.moving"],
    ["pwserver.cli"],
]
"""The folders from the ground up; what is in one imports that folder itself and lower floors."""

FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}

EXCEPTIONS = {
    ("pwserver/__init__.py", "pwserver.client"),  # when a name of the client's is asked for
    ("pwserver/__main__.py", "pwserver.cli"),  # the entry point of the command
    ("workers/storage/stores.py", "workers.storage.sqlite"),  # chooses what stands behind it
    ("workers/storage/stores.py", "workers.storage.postgres"),
}

FILES = [
    file.relative_to(PROJECT)
    for top in ("pwserver", "workers")
    for file in sorted((PROJECT / top).rglob("*.py"))
]


def imported(file: Path) -> Iterator[str]:
    """Yield the folders of this project that a file imports something of."""
    for node in ast.walk(ast.parse((PROJECT / file).read_text())):
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            if module.split(".")[0] in ("pwserver", "workers"):
                yield folder_of(module)


def folder_of(module: str) -> str:
    """Return the folder of a module, or of a name in one: the longest that there is."""
    parts = module.split(".")
    while ".".join(parts) not in FLOOR_OF:
        parts.pop()
    return ".".join(parts)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_lead_down(file: Path) -> None:
    """No file imports a folder of a higher floor, nor another one of its own."""
    own = ".".join(file.parent.parts)
    for folder in imported(file):
        allowed = folder == own or FLOOR_OF[folder] < FLOOR_OF[own]
        assert allowed or (str(file), folder) in EXCEPTIONS, (
            f"{file} imports {folder}, which is not below {own}: see FLOORS in test_imports.py"
        )


def test_every_folder_has_a_floor() -> None:
    """Also the newest."""
    assert {".".join(file.parent.parts) for file in FILES} == {*FLOOR_OF}
