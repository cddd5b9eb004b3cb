"""The commands that show settings and install pwserver: `config`, `systemd-unit`, `completion`."""

import subprocess
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.shell import ENVIRONMENT, Shell

TOKEN = "pwserver_" + "a" * 43


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in an empty folder, which is its home."""
    return Shell(tmp_path, {"HOME": str(tmp_path)})


def test_config_says_where_each_setting_comes_from(shell: Shell) -> None:
    """A flag goes before a variable, that before the file, and the rest are defaults."""
    file = shell.folder / "our.toml"
    file.write_text(f'port = 1\nguests = "none"\nworkers = 3\nurl = "pwserver://{TOKEN}@book"\n')
    shell.variables.update({"PWSERVER_PORT": "2", "PWSERVER_GUESTS": "all"})
    arguments = ("--config", "our.toml", "--port", "4", "--key-passphrase", "open sesame")
    ran = shell.run("config", "--json", *arguments)
    assert ran.code == 0, ran.err
    found = {each.pop("setting"): each for each in ran.records}
    assert found["port"] == {"value": 4, "source": "flag", "from": "--port"}
    assert found["guests"] == {"value": "all", "source": "environment", "from": "PWSERVER_GUESTS"}
    assert found["workers"] == {"value": 3, "source": "file", "from": "our.toml"}
    assert found["versions_kept"] == {"value": 10, "source": "default", "from": ""}
    assert found["key_file"] == {"value": "user_data.key", "source": "default", "from": ""}
    assert found["url"]["value"] == "pwserver://(hidden)@book"
    assert found["key_passphrase"]["value"] == "(hidden)"
    assert "sesame" not in ran.out


def test_config_shows_a_credential(shell: Shell) -> None:
    """A key file that systemd gives is in effect, although no setting names it."""
    credential = shell.folder / "pwserver.key"
    credential.touch()
    shell.variables["CREDENTIALS_DIRECTORY"] = str(shell.folder)
    found = {each["setting"]: each for each in shell.run("config").records}
    assert found["key_file"]["value"] == str(credential)
    assert found["key_file"]["source"] == "credential"


def test_config_is_a_table_for_people(shell: Shell) -> None:
    """With a mistake it says what the service would say."""
    shown = shell.type("config")
    assert shown.code == 0
    assert "setting" in shown.out
    assert "12345" in shown.out
    assert shell.run("config", "--port", "-1").err == (
        "pwserver: port is -1; it must be from 0 to 65535.\n"
    )


@pytest.mark.parametrize("flags", [[], ["--sealed"]], ids=["key", "passphrase"])
def test_the_unit_is_right_and_hardened(shell: Shell, flags: list[str]) -> None:
    """systemd finds no mistake in it, and an exposure of 2.0 at most."""
    needs.tool("systemd-analyze")
    unit, activating = shell.folder / "pwserver.service", shell.folder / "pwserver.socket"
    unit.write_text(shell.run("systemd-unit", *flags).out)
    activating.write_text(shell.run("systemd-unit", "--socket").out)
    assert ("pwserver.passphrase" in unit.read_text()) == bool(flags)
    verified = _analyze("verify", str(unit), str(activating))
    assert (verified.returncode, verified.stderr) == (0, "")
    scored = _analyze("security", "--offline=true", "--threshold=20", str(unit))
    assert scored.returncode == 0, scored.stdout


def _analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["systemd-analyze", "--no-pager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion_is_made_and_installed(shell: Shell, name: str) -> None:
    """The script knows the commands and flags; installed, it is where the shell looks for it."""
    script = shell.run("completion", name)
    assert script.code == 0, script.err
    assert "systemd-unit" in script.out
    assert "list-users" in script.out
    assert shell.run("completion", name, "--install").code == 0
    (installed,) = [path for path in shell.folder.rglob("*pwserver*") if path.is_file()]
    assert installed.read_text().strip() == script.out.strip()


def test_bash_completes_commands(shell: Shell) -> None:
    """The script is one that bash can load, and it offers what begins like the word."""
    needs.tool("bash")
    program = (
        shell.run("completion", "bash").out
        + "\nCOMP_WORDS=(pwserver sys); COMP_CWORD=1; _pwserver; echo ${COMPREPLY[@]}\n"
    )
    ran = subprocess.run(["bash"], input=program, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["systemd-unit"], ran.stderr
