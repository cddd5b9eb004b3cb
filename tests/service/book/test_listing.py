"""Pages of users: complete, in order, each of one moment, while others save and delete."""

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pwserver.limits import PAGE_BYTES_MAX, PAGE_ROWS_MAX
from tests.conftest import Start
from tests.support.books_wire import (
    Request,
    ask_all,
    at_once,
    delete,
    generated_names,
    label,
    listing,
    names,
    pages,
    save,
    saved,
)
from tests.support.harness import Peer, Service

CHOSEN = [
    *("a", "aa", "ab", "b", "A", "0", "%", "_", "a%", "a_b", "a*", "[a]", "'", '"', "\\"),
    *("user", "user-", "user-0", "user-0123", "user-00000000000000", "user-1", "user-zzz"),
    *("user.", "user 1", "uses", "userx", "user-0zzzzzzzzzzzz0", "zebra", "~", "z" * 128),
    *("\xe9", "\xe9a", "\u0119", "\u4e2d", "\uff5a", "\N{GRINNING FACE}", "\U00020000"),
]
"""Names that sort around each other in ways that go wrong easily."""


@pytest.fixture(scope="module")
def book(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Service, dict[str, list[str]]]]:
    """Yield a service with a book, and what is in it: the labels of each name."""
    with Service(tmp_path_factory.mktemp("listing")) as service:
        service.wait_until_listening()
        with service.owner() as peer:
            expected: dict[str, list[str]] = {}
            for number, name in enumerate(CHOSEN):
                labels = [["odd", "even"][number % 2], *(["third"] if number % 3 == 0 else [])]
                assert peer.ask(save(name, labels=labels)) == saved(name, 1)
                expected[name] = labels
                peer.send(save(), save(labels=["odd"]))
                assert [peer.reply()["message"] for _ in range(2)] == ["Password saved!"] * 2
            assert peer.count() == 3 * len(expected)
            for name in set(generated_names(peer)) - set(expected):
                expected[name] = []
            for name in names(peer, label="odd"):
                expected[name] = expected[name] or ["odd"]
        assert len(expected) == 3 * len(CHOSEN)
        yield service, expected
        assert service.stop() == 0


Book = tuple[Service, dict[str, list[str]]]


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_all_users_are_listed_in_the_order_of_their_names(book: Book, limit: int) -> None:
    """Chosen and generated names together, in the order of their characters, none twice."""
    service, expected = book
    with service.owner() as peer:
        assert names(peer, limit=limit) == sorted(expected)


def test_an_entry_tells_all_but_the_password(book: Book) -> None:
    """Name, labels, version and time; the reply has the users and the cursor, and no value."""
    service, expected = book
    with service.owner() as peer:
        reply = peer.ask({**listing(limit=3), "id": 1})
        assert set(reply) == {"message", "users", "after", "id"}
        for user in reply["users"]:
            assert set(user) == {"username", "labels", "version", "time_saved"}
            assert user["labels"] == expected[user["username"]]
            assert user["version"] == 1
        assert reply["after"] is not None
        assert "abc123" not in json.dumps(reply)


@given(
    after=st.one_of(st.just(""), st.sampled_from(CHOSEN), st.text(max_size=4)),
    prefix=st.one_of(
        st.just(""),
        st.sampled_from(CHOSEN).flatmap(
            lambda name: st.integers(0, len(name)).map(lambda end: name[:end])
        ),
        st.text(max_size=2),
    ),
    with_label=st.sampled_from([None, "odd", "even", "third", "none has it"]),
    limit=st.integers(1, 12),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_query_is_answered_as_a_sorted_list_is_cut(
    book: Book, after: str, prefix: str, with_label: str | None, limit: int
) -> None:
    """Behind `after`, beginning with `prefix`, having the label: exactly those, page by page."""
    if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in after + prefix):
        return
    service, expected = book
    query: Request = {"prefix": prefix, "limit": limit}
    if with_label is not None:
        query["label"] = with_label
    left = [
        name
        for name in sorted(expected)
        if name > after
        and name.startswith(prefix)
        and (with_label is None or with_label in expected[name])
    ]
    with service.owner() as peer:
        cursor: str | None = after
        while cursor is not None:
            reply = peer.ask(listing(after=cursor, **query))
            page = [user["username"] for user in reply["users"]]
            assert page == left[:limit], "a page of a small book is as long as it may be"
            left = left[limit:]
            cursor = reply["after"]
            assert cursor is None or len(page) == limit
    assert not left


def test_a_generated_name_is_found_by_its_beginning(book: Book) -> None:
    """A prefix may end anywhere within a generated name, and `after` may be one."""
    service, expected = book
    with service.owner() as peer:
        made = [name for name in expected if name not in CHOSEN and name.startswith("user-")]
        assert made
        for name in made[::7]:
            for end in range(len("user-"), len(name) + 1):
                prefix = name[:end]
                assert names(peer, prefix=prefix) == [
                    each for each in sorted(expected) if each.startswith(prefix)
                ]
            behind = [each for each in sorted(expected) if each > name]
            first = peer.ask(listing(after=name, limit=5))["users"]
            assert [user["username"] for user in first] == behind[:5]


def test_an_empty_book_has_an_empty_page(owner: Peer) -> None:
    """And so has one from which all are deleted again."""
    empty: Request = {"message": "return_users", "users": [], "after": None}
    assert owner.ask(listing()) == empty
    ask_all(owner, [save("a"), delete("a")])
    assert owner.ask(listing()) == empty
    assert owner.ask(listing(after="b", prefix="a", label="c", limit=1)) == empty


def test_a_cursor_outlives_its_user(owner: Peer) -> None:
    """The user that a page ended with may be gone when the next is asked for."""
    ask_all(owner, [save(name) for name in "abcdef"])
    after = owner.ask(listing(limit=3))["after"]
    ask_all(owner, [delete("c"), delete("d"), save("c2"), save("a2")])
    rest = owner.ask(listing(after=after))
    assert [user["username"] for user in rest["users"]] == ["c2", "e", "f"]


def test_what_is_renewed_is_listed_anew(owner: Peer) -> None:
    """Versions, times and labels in a listing are those of now."""
    ask_all(owner, [save("a"), save("b", labels=["x"]), save("a"), label("b", "y")])
    users = owner.ask(listing())["users"]
    assert [(user["version"], user["labels"]) for user in users] == [(2, []), (1, ["y"])]
    assert names(owner, label="x") == []
    assert names(owner, label="y") == ["b"]


def test_a_page_may_end_early_and_the_listing_goes_on(owner: Peer) -> None:
    """Where few have the label, or replies grow long, pages are short, and nobody is missed."""
    many = 3 * PAGE_ROWS_MAX
    requests = [save(f"n{n:05}", labels=["rare"] if n % 1000 == 999 else []) for n in range(many)]
    ask_all(owner, requests)
    ask_all(owner, [save()] * PAGE_ROWS_MAX)
    found = list(pages(owner, label="rare"))
    assert [user["username"] for page in found for user in page] == [
        f"n{n:05}" for n in range(999, many, 1000)
    ]
    assert len(found) > 3, "no request looks at the whole book"
    assert list(pages(owner, label="none"))[-1] == []
    assert names(owner, limit=1000)[:many] == [f"n{n:05}" for n in range(many)]
    assert len(names(owner, limit=999)) == many + PAGE_ROWS_MAX == owner.count()
    owner.send(listing(label="rare"), listing(prefix="n05", label="rare"))
    first, exact = owner.reply(), owner.reply()
    assert first["after"] is not None
    assert len(first["users"]) < len(found)
    assert [user["username"] for user in exact["users"]] == ["n05999"]


def test_a_reply_is_bounded_whatever_the_limit(owner: Peer) -> None:
    """Users with the longest names and labels come in shorter pages."""
    labels = [f"{n:064}" for n in range(16)]
    expected = [f"{n:0128}" for n in range(600)]
    ask_all(owner, [save(name, labels=labels) for name in expected])
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        owner.send(listing(after=after, limit=1000))
        line = owner.line()
        assert len(line) < 2 * PAGE_BYTES_MAX
        reply = json.loads(line)
        found += [user["username"] for user in reply["users"]]
        after = reply["after"]
    assert found == expected


# --- While others save and delete. ---


def test_no_user_twice_and_none_missed_while_others_save_and_delete(start: Start) -> None:
    """Who is there all the time is in every listing once; who comes or goes, at the most once."""
    service = start()
    with service.owner() as peer:
        stay = sorted(f"{n * 7919 % 1000:03} stays" for n in range(300))
        ask_all(peer, [save(name, labels=["stays"]) for name in stay])
        ask_all(peer, [save()] * 50)
        made = generated_names(peer)
    stop = threading.Event()
    passes: list[int] = []
    seen: set[str] = set()

    def come_and_go(client: int) -> None:
        with service.owner() as peer:
            for n in itertools.count():
                if stop.is_set():
                    return
                name = f"{n * 7919 % 1000:03} goes {client}"
                replies = ask_all(
                    peer, [save(name, labels=["goes"]), delete(name), save(stay[n % 300])]
                )
                assert replies[1] == {"message": "User deleted!"}
                if n % 10 == 0:
                    ask_all(peer, [save()])

    def read(limit: int, query: Request) -> None:
        try:
            with service.owner() as peer:
                for _ in range(15):
                    found = names(peer, limit=limit, **query)
                    assert found == sorted(set(found)), "in order, none twice"
                    if "label" not in query:
                        assert not set(made) - set(found)
                    assert [name for name in found if name.endswith("stays")] == stay
                    seen.update(found)
                    passes.append(1)
        finally:
            if len(passes) >= 45:
                stop.set()

    def read_all() -> None:
        try:
            at_once(
                [
                    lambda: read(7, {}),
                    lambda: read(100, {}),
                    lambda: read(11, {"label": "stays"}),
                ]
            )
        finally:
            stop.set()

    at_once([read_all, lambda: come_and_go(1), lambda: come_and_go(2)])
    assert len(passes) == 45
    assert len(seen) > len(stay) + len(made), "others came and went meanwhile"


def test_a_page_is_what_the_book_held_at_one_moment(start: Start, tmp_path: Path) -> None:
    """A user that moves from name to name is seen in one place, or in two on its way; never else.

    The steps go forth and back through the page, so a page put together of several moments would
    show none, or two that were never there together.
    """
    service = start()
    steps = {f"{n * 389 % 1000:03} token": n for n in range(1000)}
    places = sorted(steps, key=lambda name: steps[name])
    with service.owner() as peer:
        ask_all(peer, [save(f"{n:03} fixed") for n in range(800)])
        peer.ask(save(places[0]))
    stop = threading.Event()

    def move() -> None:
        with service.owner() as peer:
            for here, there in itertools.pairwise(itertools.cycle(places)):
                if stop.is_set():
                    return
                peer.ask(save(there))
                peer.ask(delete(here))

    seen: set[int] = set()

    def look() -> None:
        try:
            with service.owner() as peer:
                for _ in range(150):
                    page = [user["username"] for user in peer.ask(listing(limit=1000))["users"]]
                    tokens = sorted(steps[name] for name in page if name in steps)
                    assert len(page) == 800 + len(tokens)
                    assert len(tokens) in (1, 2), tokens
                    assert tokens[-1] - tokens[0] in (0, 1, 999), tokens
                    seen.update(tokens)
        finally:
            stop.set()

    at_once([move, look])
    assert len(seen) > 20, "the token moved while pages were read"
