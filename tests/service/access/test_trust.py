"""Files of others are not believed, and what root makes belongs to whose the book is."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pwserver import trust
from pwserver.errors import ConfigError
from tests.support.shell import Ran, Shell

NOBODY, SERVICE = 65534, 12345
"""Users that need no entry in /etc/passwd."""

needs_root = pytest.mark.root("to give files to others")
BOOK = ("user_data.db", "user_data.key", "user_data.audit", "user_data.audit-head")


@pytest.fixture
def shell() -> Iterator[Shell]:
    """Return a shell in an empty folder, which others may look into as well."""
    with tempfile.TemporaryDirectory(prefix="pwserver-test-") as folder:
        os.chmod(folder, 0o755)
        yield Shell(Path(folder))


def given(path: Path, text: str = "", user: int = NOBODY, mode: int = 0o600) -> Path:
    """Make a file of another user."""
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, user, user)
    return path


def owners(folder: Path) -> set[int]:
    """Return whose the files in a folder are."""
    return {path.lstat().st_uid for path in folder.iterdir()}


def refused(ran: Ran, code: int, words: str) -> None:
    """Check that a command said in a sentence why it did nothing."""
    assert (ran.code, ran.out) == (code, ""), ran
    assert words in ran.err
    assert "Traceback" not in ran.err


# --- Files that say where to connect, and whom to trust. ---


@needs_root
def test_settings_of_another_user_are_refused(shell: Shell) -> None:
    """A stranger's `pwserver.toml` in the current folder sends no token anywhere."""
    given(shell.folder / "pwserver.toml", "port = 1\n", mode=0o644)
    refused(shell.run("ping"), 2, "pwserver.toml belongs to ")
    refused(shell.run("ping", "--config", "pwserver.toml"), 2, "it must belong to root")


@needs_root
def test_a_link_of_another_user_is_refused(shell: Shell) -> None:
    """Otherwise a stranger chooses which of our files is believed."""
    (shell.folder / "ours.toml").write_text("port = 1\n")
    link = shell.folder / "pwserver.toml"
    link.symlink_to("ours.toml")
    assert shell.run("ping").code == 3
    os.lchown(link, NOBODY, NOBODY)
    refused(shell.run("ping"), 2, "pwserver.toml is a link of ")


def test_settings_that_others_may_change_are_refused(shell: Shell) -> None:
    """With the command that helps; who may only read them does no harm."""
    file = shell.folder / "pwserver.toml"
    file.write_text("port = 1\n")
    for mode in (0o664, 0o646):
        file.chmod(mode)
        refused(shell.run("ping"), 2, f"(mode {mode:o}). Run: chmod go-w pwserver.toml")


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o620, 0o602])
def test_who_else_may_use_a_file(tmp_path: Path, private: bool, mode: int) -> None:
    """Nobody else may write to a trusted file, nor read a private one."""
    file = tmp_path / "file"
    file.write_text("content")
    file.chmod(mode)
    allowed = not mode & (0o077 if private else 0o022)
    if allowed:
        data = trust.read(file, "it", ConfigError, bytes_max=7, private=private)
        assert data == b"content"
    else:
        with pytest.raises(ConfigError, match=r"^it .* others"):
            trust.read(file, "it", ConfigError, bytes_max=7, private=private)


@needs_root
def test_a_group_may_read_a_private_file_of_roots(tmp_path: Path) -> None:
    """As Kubernetes hands out secrets: but only root's, and to a user who is not root."""
    file = given(tmp_path / "file", "secret", user=0, mode=0o640)
    assert trust.distrust(file.stat(), file, SERVICE, private=True) is None
    assert trust.distrust(file.stat(), file, 0, private=True) is not None
    os.chown(file, SERVICE, 0)
    assert trust.distrust(file.stat(), file, SERVICE, private=True) is not None
    file.chmod(0o600)
    assert trust.distrust(file.stat(), file, SERVICE, private=True) is None
    assert trust.distrust(file.stat(), file, 0, private=True) is not None


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (Path.mkdir, "is a directory, and not a file"),
    "pipe": (os.mkfifo, "is not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/null"), "is not a regular file"),
    "link to nothing": (lambda path: path.symlink_to("gone"), "is a link to gone, and there is no"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_named_so(shell: Shell, kind: str) -> None:
    """Whichever file is named; nothing waits for a pipe, and nothing is made."""
    make, words = KINDS[kind]
    make(shell.folder / "x")
    refused(shell.run("setup", "--database", "x"), 5, f"x {words}")
    refused(shell.run("setup", "--key-file", "x"), 5, f"the key file x {words}")
    refused(shell.run("ping", "--config", "x"), 2, f"x {words}")
    refused(shell.run("ping", "--token-file", "x"), 2, f"token_file x {words}")
    assert [path.name for path in shell.folder.iterdir()] == ["x"]


# --- The files of the service. ---


@needs_root
@pytest.mark.parametrize("name", BOOK)
def test_a_file_of_the_book_of_another_user_is_refused(shell: Shell, name: str) -> None:
    """By the service at its start, by an administrator's command, and by the check."""
    assert shell.run("setup").code == 0
    assert shell.run("app", "add", "web", "--may", "get").code == 0
    os.chown(shell.folder / name, NOBODY, NOBODY)
    refused(shell.run("serve", "--port", "0"), 5, f"{name} belongs to ")
    ran = shell.run("check")
    assert ran.code == 5
    assert " belongs to " in ran.err


@needs_root
@pytest.mark.parametrize("name", ["user_data.db", "user_data.key", "user_data.db-wal"])
def test_what_was_put_there_beforehand_is_refused(shell: Shell, name: str) -> None:
    """In a folder such as /tmp, where everybody may make files."""
    shell.folder.chmod(0o1777)
    if name.endswith("-wal"):
        assert shell.run("setup").code == 0
    given(shell.folder / name)
    for command in (("setup",), ("app", "add", "web", "--may", "get")):
        refused(shell.run(*command), 5, f"{name} belongs to ")


@needs_root
def test_what_root_makes_belongs_to_whose_the_book_is(shell: Shell) -> None:
    """The owner of the folder, or of the database once there is one: the service can go on."""
    os.chown(shell.folder, SERVICE, SERVICE)
    assert shell.run("setup").code == 0
    assert owners(shell.folder) == {SERVICE}
    os.chown(shell.folder, 0, SERVICE)
    shell.folder.chmod(0o770)
    for command in (
        ("app", "add", "web", "--may", "get"),
        ("app", "rotate", "web"),
        ("key", "add"),
        ("key", "rotate"),
        ("check",),
        ("audit", "verify"),
    ):
        ran = shell.run(*command)
        assert ran.code == 0, ran
        assert owners(shell.folder) == {SERVICE}


@needs_root
def test_a_key_file_of_roots_stays_roots(shell: Shell) -> None:
    """Root may keep the key to itself and its group, and add another one to it."""
    os.chown(shell.folder, SERVICE, SERVICE)
    assert shell.run("setup").code == 0
    key = shell.folder / "user_data.key"
    os.chown(key, 0, SERVICE)
    assert shell.run("key", "add").code == 0
    assert key.stat().st_uid == 0
    assert shell.run("key", "list").code == 0


@needs_root
def test_root_adds_a_key_where_the_folder_is_roots(shell: Shell) -> None:
    """The service can read its key file after that, and need not be able to make one."""
    os.chown(shell.folder, SERVICE, SERVICE)
    (shell.folder / "keys").mkdir(0o755)
    assert shell.run("setup", "--key-file", "user_data.key").code == 0
    key = (shell.folder / "user_data.key").rename(shell.folder / "keys" / "key")
    ran = shell.run("key", "add", "--key-file", "keys/key")
    assert (ran.code, key.stat().st_uid) == (0, SERVICE), ran


def test_a_key_is_never_taken_for_the_lock(shell: Shell) -> None:
    """What is there would be emptied at the start, and removed at the stop."""
    assert shell.run("setup").code == 0
    key = (shell.folder / "user_data.key").rename(shell.folder / "user_data.lock")
    (shell.folder / "link").symlink_to(key.name)
    before = key.read_bytes()
    for name in ("user_data.lock", "link"):
        refused(shell.run("serve", "--key-file", name), 2, "which has the lock of the service")
    assert key.read_bytes() == before


def test_links_do_not_lead_to_a_file_of_the_database(shell: Shell) -> None:
    """A clean stop removes the log of the database, and a key that is in it."""
    (shell.folder / "key").symlink_to("user_data.db-wal")
    refused(shell.run("setup", "--key-file", "key"), 2, "key_file is key, which has a part of the")
    (shell.folder / "a").mkdir()
    (shell.folder / "b").symlink_to("a")
    flags = ("--database", "a/x.db", "--audit-file", "b/x.db-shm")
    refused(shell.run("setup", *flags), 2, "audit_file is b/x.db-shm, which has a part of the")
