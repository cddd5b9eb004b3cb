"""What is deleted is gone from the file, sealed or not."""

from pathlib import Path

import pytest

from tests.conftest import Start
from tests.support.books_wire import (
    DELETED,
    UNKNOWN_USER,
    ask_all,
    delete,
    get,
    names,
    password_of,
    rows,
    save,
)
from workers.book.history import unpack


def left_in(folder: Path, sealed: list[bytes]) -> list[bytes]:
    """Return those sealed passwords of which a part is found in a file of a folder.

    The first 24 bytes are the nonce, half of which others share; a part behind it is looked for,
    and the last one, which is all that an overwritten beginning leaves.
    """
    data = b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())
    return [each for each in sealed if each[24:40] in data or each[-16:] in data]


def sealed_of(database: Path, username: str) -> list[bytes]:
    """Return all versions of a user's password as they are sealed, the newest first."""
    query = "SELECT sealed, older FROM user WHERE username = ?"
    ((newest, older),) = rows(database, query, username)
    return [newest, *(version.sealed for version in reversed(unpack(older)))]


@pytest.mark.parametrize("length", [1, 100, 4096])
def test_a_deleted_password_is_gone_from_the_file(
    start: Start, tmp_path: Path, length: int
) -> None:
    """After a clean stop nothing of a deleted user is left, sealed or not; the others are there."""
    service = start()
    password = "\N{GRINNING FACE}" * length
    with service.owner() as peer:
        for user in ("before", "gone", "after"):
            ask_all(peer, [save(user, password, labels=["x"]) for _ in range(5)])
        gone = sealed_of(service.database, "gone")
        kept = sealed_of(service.database, "before") + sealed_of(service.database, "after")
        assert len(gone) == 5
        assert left_in(tmp_path, gone + kept) == gone + kept
        assert peer.ask(delete("gone")) == DELETED
    assert service.stop() == 0
    assert not (tmp_path / "user_data.db-wal").exists()
    assert left_in(tmp_path, gone + kept) == kept
    assert b"gone" not in service.database.read_bytes(), "nor is the name"
    with start().owner() as peer:
        assert peer.ask(get("gone")) == UNKNOWN_USER
        assert password_of(peer, "after", version=1) == password


def test_a_pruned_password_is_gone_from_the_file(start: Start, tmp_path: Path) -> None:
    """What the history has no room for is not in the file either."""
    service = start("--versions-kept", "2")
    seen: list[bytes] = []
    with service.owner() as peer:
        for n in range(12):
            peer.ask(save("a", f"password {n}" * n or "p"))
            kept = sealed_of(service.database, "a")
            seen += [sealed for sealed in kept if sealed not in seen]
    assert service.stop() == 0
    assert len(kept) == 3
    assert left_in(tmp_path, seen) == [sealed for sealed in seen if sealed in kept]


def test_passwords_of_the_basic_contract_can_be_erased(start: Start, tmp_path: Path) -> None:
    """A user without a name of its own is deleted as thoroughly, after a kill as well."""
    service = start()
    with service.owner() as peer:
        ask_all(peer, [save(password=f"p{n}") for n in range(200)])
    service.kill_everything()
    service = start()
    with service.owner() as peer:
        all_names = names(peer)
        by_id = rows(service.database, "SELECT sealed FROM user ORDER BY id")
        gone = [bytes(sealed) for (sealed,) in by_id[::2]]
        kept = [bytes(sealed) for (sealed,) in by_id[1::2]]
        assert ask_all(peer, [delete(name) for name in all_names[::2]]) == [DELETED] * 100
    assert service.stop() == 0
    assert left_in(tmp_path, gone + kept) == kept
