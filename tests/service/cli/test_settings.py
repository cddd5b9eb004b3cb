"""Where settings come from, and that what a single command is told to do is not one of them."""

import dataclasses
import re
from pathlib import Path

import pytest

from pwserver.cli import main
from pwserver.config import ClientSettings
from tests.support.fake_service import SAVED, TIME, FakeService, Message, answer_all
from tests.support.shell import Shell

NO_SETTINGS = {
    "YES": "1",
    "SHOW": "1",
    "RAW": "1",
    "JSON": "1",
    "USERNAME": "eve",
    "LABEL": "evil",
    "LABELS": "evil",
    "PREFIX": "e",
    "LIMIT": "1",
    "VERSION": "1",
    "LENGTH": "4",
    "ALPHABET": "ab",
    "TOKENS": "delete",
    "SETTINGS": "{}",
}
"""What single commands are told, as if these were variables of the environment or keys."""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in an empty folder."""
    return Shell(tmp_path)


def test_settings_come_from_flag_environment_and_file_in_this_order(shell: Shell) -> None:
    """Each source is used, and each overrides the one after it."""
    file = shell.folder / "pwserver.toml"
    file.write_text('workers = 0\nhost = "localhost"\nport = -3\n')
    assert "port is -3" in shell.run("serve").err
    shell.variables["PWSERVER_PORT"] = "-4"
    assert "port is -4" in shell.run("serve").err
    assert "port is -5" in shell.run("serve", "--port", "-5").err
    assert "workers is 0" in shell.run("serve", "--port", "0").err
    assert "port is -4" in shell.run("count").err
    del shell.variables["PWSERVER_PORT"]
    assert "port is -3" in shell.run("count").err, "commands with fewer settings read the file, too"


@pytest.mark.parametrize("secret", ["pwserver_" + "x" * 43, "eve:hunter2", "hunter2@"])
def test_no_secret_of_a_url_is_shown(shell: Shell, secret: str) -> None:
    """Not a token, nor what somebody has taken for one."""
    shell.variables["PWSERVER_URL"] = f"pwserver://{secret}@127.0.0.1:1"
    ran = shell.run("config")
    assert "pwserver://(hidden)@127.0.0.1:1" in ran.out
    assert secret not in ran.out + ran.err


def test_one_file_serves_the_service_and_its_clients(shell: Shell) -> None:
    """Settings that a command does not have are no mistake, in a file of any name."""
    (shell.folder / "our.toml").write_text(
        'url = "pwserver://127.0.0.1:1"\ntimeout_s = 1.0\nkey_file = "a"\nport = -1\n'
    )
    assert "port is -1" in shell.run("serve", "--config", "our.toml").err
    shell.variables["PWSERVER_CONFIG"] = "our.toml"
    assert shell.run("ping", "--port", "1").code == 3
    assert "no settings file none.toml" in shell.run("ping", "--config", "none.toml").err


def test_a_file_may_begin_with_a_byte_order_mark(shell: Shell) -> None:
    """Editors of other systems put one there, and nobody can see it."""
    (shell.folder / "pwserver.toml").write_text("port = 1\n", "utf-8-sig")
    assert "127.0.0.1:1 cannot be reached" in shell.run("ping").err


@pytest.mark.parametrize("command", ["serve", "ping"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wrokers = 3\n", "'wrokers', which is not a setting"),
        ("yes = true\n", "'yes', which is not a setting"),
        ("[port]\nx = 1\n", "'port', which is not a setting"),
        ("workers = = 3\n", "is not a TOML file"),
    ],
    ids=["misspelt", "switch", "section", "broken"],
)
def test_a_file_with_a_mistake_is_refused(
    shell: Shell, command: str, text: str, words: str
) -> None:
    """Whichever command reads it: nothing in it is silently ignored."""
    (shell.folder / "pwserver.toml").write_text(text)
    refused = shell.run(command)
    assert refused.code == 2
    assert re.fullmatch(f"pwserver: pwserver.toml .*{words}.*\n", refused.err), refused.err


def reply_to(request: Message) -> Message:
    """Answer as an empty book does."""
    replies: dict[str, Message] = {
        "save_password": SAVED,
        "get_password": {
            "message": "return_password",
            "username": "alice",
            "password": "abc123",
            "version": 2,
            "time_saved": TIME,
        },
        "list_users": {"message": "return_users", "users": [], "after": None},
        "generate_password": {"message": "return_generated_password", "password": "abc123"},
    }
    return replies[request["message"]]


def test_the_environment_tells_no_command_what_to_do(tmp_path: Path) -> None:
    """No name, label or switch comes from there: what is done stands on the command line."""
    with FakeService(answer_all(reply_to)) as service:
        shell = Shell(tmp_path, {"PWSERVER_URL": service.url})
        for name, value in NO_SETTINGS.items():
            variables = {**shell.variables, f"PWSERVER_{name}": value}
            refused = Shell(tmp_path, variables).run("delete", "alice")
            assert f"PWSERVER_{name}, which is not a setting; did you mean " in refused.err
        assert service.requests == []
        assert "Usage: pwserver COMMAND" in shell.run().out
        assert shell.run("get").code == 2, "there is no name"
        assert "add --yes" in shell.run("delete", "alice").err
        assert shell.run("generate").out == '{"password": "abc123"}\n'
        assert shell.run("list").code == 0
        assert shell.run("save", stdin="x").out == "Password saved!\n"
        hidden = shell.type("get", "alice")
        assert "abc123" not in hidden.out
        assert hidden.out.startswith("username ")
        requests = service.requests
    assert requests.pop(2).keys() == {"message", "password", "request_id"}
    assert requests == [
        {"message": "generate_password"},
        {"message": "list_users", "after": "", "prefix": ""},
        {"message": "get_password", "username": "alice"},
    ]


def test_the_help_names_the_variables_of_settings_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said to come from the environment does, and nothing else."""
    monkeypatch.setenv("COLUMNS", "300")
    named = {}
    for command in ("serve", "save", "generate", "delete", "list"):
        main.run([command, "--help"])
        text = capsys.readouterr().out
        named[command] = set(re.findall(r"\[env var: PWSERVER_([^]]+)\]", text))
        assert text.count("env var: ") == len(named[command])
    assert {"LIST_USERS", "PORT", "KEY_FILE", "CONFIG"} <= named.pop("serve")
    for variables in named.values():
        names = {field.name.upper() for field in dataclasses.fields(ClientSettings)}
        assert variables == {"CONFIG", *names}
