"""The rule that makes names of what a file has, and what is said where it cannot."""

import pytest

from pwserver.errors import ConfigError
from pwserver.moving.entries import Entry, Export
from pwserver.moving.naming import DEFAULT_TEMPLATE, Template, named
from tests.support.exports import Login
from workers.book.names import generated_name, normal

SECRET = "hunter2"
TOKEN = "pwserver_" + "A1" * 21 + "A"


def run(*logins: Login, template: str = DEFAULT_TEMPLATE) -> tuple[list[str], list[str]]:
    """Return the names of logins, and what is said of them."""
    entries = [
        Entry(line, each.title, each.login, each.password, each.url, (each.folder,))
        if each.folder
        else Entry(line, each.title, each.login, each.password, each.url)
        for line, each in enumerate(logins, start=2)
    ]
    found, findings = named(Export("CSV", "line", template, entries), Template(template))
    said = [f"{kind} {line} {what}" for line, kind, what in findings]
    assert SECRET not in repr((found, said, entries))
    for each in found:
        assert normal(each.name, "username") == each.name
    return [each.name for each in found], said


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{name}/{login}", "Example/alice"),
        ("{login}@{host}", "alice@example.com"),
        ("{folder}: {name}", "Work: Example"),
        ("old/{name}!", "old/Example!"),
        ("{{{name}}}", "{Example}"),
    ],
)
def test_a_template_says_how_names_are_made(template: str, name: str) -> None:
    """Its fields are replaced; what stands between them stays."""
    assert run(Login(folder="Work"), template=template) == ([name], [])


@pytest.mark.parametrize(
    ("template", "login", "name"),
    [
        ("{name}/{login}", Login(login=""), "Example"),
        ("{name}/{login}", Login(title=""), "example.com/alice"),
        ("{name}/{login}", Login(title="", url="a.example:8080/x"), "a.example/alice"),
        ("{name}/{login}", Login(title="", url=""), "alice"),
        ("{name}/{login}", Login(title="", url="http://[::1"), "alice"),
        ("{folder}: {name}/{login}", Login(), "Example/alice"),
        ("old/{folder}-{name}.", Login(), "old/Example."),
    ],
)
def test_an_empty_field_is_left_out(template: str, login: Login, name: str) -> None:
    """So is what stands between it and the one before it."""
    assert run(login, template=template) == ([name], [])


@pytest.mark.parametrize("template", ["", "x", "{}", "{title}", "{name!r}", "{name:9}", "{name"])
def test_a_template_without_fields_is_refused(template: str) -> None:
    """The sentence says which there are."""
    with pytest.raises(ConfigError, match=r"must be made of \{name\}, \{login\}, \{host\}"):
        Template(template)


def test_names_are_put_right() -> None:
    """White space, invisible characters and the normal form are no reason to leave one out."""
    names, said = run(
        Login(" Two\n lines\t", "a\u200bb"),
        Login("Cafe\u0301", "x"),
        Login("\N{HEAVY BLACK HEART}\ufe0f", "x"),
        Login("two  spaces", "x"),
    )
    assert names == ["Two lines /ab", "Caf\u00e9/x", "\N{HEAVY BLACK HEART}/x", "two  spaces/x"]
    assert said == []


def test_what_has_no_name_is_reported() -> None:
    """Nothing is cut off in silence."""
    names, said = run(
        Login("", "", url=""),
        Login("\u200b", "\u200b", url=""),
        Login("x" * 123, "alice"),
        Login(TOKEN, "alice"),
    )
    assert names == []
    assert said == [
        "broken 2 has nothing to make a name of.",
        "broken 3 has nothing to make a name of.",
        "broken 4 has a name that cannot be used: it is longer than 128 characters in normal "
        "form C.",
        "broken 5 has a name that cannot be used: it holds a token, which would not stay secret "
        "there.",
    ]


def test_a_name_that_only_the_service_makes_gets_another() -> None:
    """So what was saved without a name can be moved, and moved again."""
    name = generated_name(2**62)
    names, said = run(Login(name, ""))
    assert names == [f"imported-{name}"]
    assert said == [f"note 2 has a name that only the service may make: it is {names[0]!r} now."]


def test_every_name_occurs_once() -> None:
    """The second gets a number; one with the same password too is a duplicate."""
    names, said = run(
        Login(),
        Login(password=SECRET),
        Login(),
        Login(password=SECRET),
        Login("Example/alice (2)", "", "three"),
        Login(password="four"),
    )
    assert names == [
        "Example/alice",
        "Example/alice (2)",
        "Example/alice (2) (2)",
        "Example/alice (3)",
    ]
    assert said == [
        "note 3 has the name of another before it: it is 'Example/alice (2)' now.",
        "duplicate 4 is the same as line 2.",
        "duplicate 5 is the same as line 3.",
        "note 6 has the name of another before it: it is 'Example/alice (2) (2)' now.",
        "note 7 has the name of another before it: it is 'Example/alice (3)' now.",
    ]


def test_passwords_that_cannot_be_saved_are_reported() -> None:
    """Too long, with a NUL, with half a character: by line, and never shown."""
    names, said = run(
        Login(password=SECRET + "x" * 4096),
        Login(password=SECRET + "\0"),
        Login(password=SECRET + "\ud800"),
        Login(password="x" * 4096),
    )
    assert names == ["Example/alice"]
    assert said == [
        "broken 2 has a password of more than 4,096 characters, which is the most.",
        "broken 3 has a password with a NUL character.",
        "broken 4 has a password with half a character.",
    ]


def test_labels_that_cannot_be_are_reported() -> None:
    """The password is saved all the same."""
    long = Entry(2, "a", "", "one", labels=("x" * 65, "work"))
    many = Entry(3, "b", "", "one", labels=tuple(map(str, range(17))))
    joined = Entry(4, "c", "", "one", labels=("\N{HEAVY BLACK HEART}\ufe0f", " two\nlines", " "))
    export = Export("CSV", "line", "{name}", [long, many, joined])
    found, findings = named(export, Template("{name}"))
    assert [each.labels for each in found] == [
        ("work",),
        tuple(map(str, range(16))),
        ("\N{HEAVY BLACK HEART}\ufe0f", "two lines"),
    ]
    assert findings == [
        (2, "note", "has a folder or tag that is left out: it is longer than 64 characters in "
                    "normal form C."),
        (3, "note", "has more than 16 tags; the rest is left out."),
    ]  # fmt: skip
