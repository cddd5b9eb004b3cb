"""The list of faults in this package's docstring is true."""

import ast
import re
from pathlib import Path

import pytest

import tests.faults

FOLDER = Path(__file__).parent
ROWS = re.findall(r"^\| ([^|]+) \| [^|]+ \| (\S+\.py) \|$", tests.faults.__doc__ or "", re.M)


@pytest.mark.parametrize(("fault", "file"), ROWS, ids=[fault for fault, _ in ROWS])
def test_a_row_is_where_it_is_said_to_be(fault: str, file: str) -> None:
    """Each fault has a script, or a file with tests, each of which says its promise."""
    if file.startswith("trials/"):
        assert FOLDER.parent.joinpath(file).is_file()
        return
    tree = ast.parse(FOLDER.joinpath(file).read_text())
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert tests, f"nothing tests: {fault}"
    assert all(ast.get_docstring(test) for test in tests)


def test_every_file_has_a_row() -> None:
    """No tests of faults are beside the list."""
    listed = {file for _, file in ROWS}
    there = {str(file.relative_to(FOLDER)) for file in FOLDER.rglob("test_*.py")}
    assert listed >= there - {Path(__file__).name}
    assert len(ROWS) > 20
