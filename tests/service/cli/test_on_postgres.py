"""What the command says of a database on a PostgreSQL server, when it does nothing with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.shell import TREE_ENVIRONMENT, Shell

SERVER = ("--database", "postgresql:///book?host=/nowhere")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("backup", "copy.db"), "is backed up by PostgreSQL's own tools: pg_dump"),
        (("restore", "copy.db"), "is restored by PostgreSQL's own tools: pg_restore"),
        (("import", "names.csv"), "has its import through a service"),
        (("export", "names.csv", "--yes"), "has its export through a service"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_others_do_is_refused_in_one_sentence(
    tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    """It says who does it, and makes no file."""
    file = tmp_path / command[1]
    if command[0] == "import":
        file.write_text("name,url,username,password,note\na,,alice,x,\n")
    before = sorted(tmp_path.iterdir())
    ran = Shell(tmp_path).run(*command, *SERVER)
    assert ran.code != 0
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_without_psycopg_there_is_one_sentence(tmp_path: Path) -> None:
    """That says how to install it; the reason that psycopg gives has several lines."""
    ran = subprocess.run(
        [sys.executable, "-m", "pwserver", "serve", "--port", "0", *SERVER],
        cwd=tmp_path,
        env={**TREE_ENVIRONMENT, "PSYCOPG_IMPL": "none"},  # what does not exist
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode != 0
    assert "pip install 'pwserver[postgres]'" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
