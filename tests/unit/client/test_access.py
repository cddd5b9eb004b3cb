"""The way to a service, as a client is told of it: URLs, tokens and certificates."""

import os
import pprint
from pathlib import Path
from typing import Any

import pytest

from pwserver import AsyncClient, Client, ConfigError
from pwserver.client.access import access_to
from pwserver.client.url import ServiceUrl, parse
from pwserver.config import ClientSettings
from pwserver.secret import Secret
from tests.support.fake_service import TOKEN
from tests.support.tls import Authority

OTHER_TOKEN = "pwserver_" + "B" * 43


@pytest.fixture(autouse=True)
def no_token_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no variable of whoever runs the tests give the clients a token."""
    monkeypatch.delenv("PWSERVER_TOKEN_FILE", raising=False)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Return a file with a token that only its owner may use."""
    return written(tmp_path / "token", f"{TOKEN}\n")


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    """Write a file that has these permissions from the first moment on."""
    path.touch(mode)
    path.write_text(text)
    path.chmod(mode)
    return path


# --- URLs. ---


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("pwserver://127.0.0.1:12345", ServiceUrl("127.0.0.1", 12345)),
        ("pwserver://book.example", ServiceUrl("book.example", 12345)),
        ("PWSERVER://[::1]:1", ServiceUrl("::1", 1)),
        ("pwserver://[fe80::1%eth0]", ServiceUrl("fe80::1%eth0", 12345)),
        ("pwservers://book.example", ServiceUrl("book.example", 12345, tls=True)),
        ("pwservers://[::1]:1", ServiceUrl("::1", 1, tls=True)),
        ("pwserver+unix:///run/pw.sock", ServiceUrl(path="/run/pw.sock")),
        ("pwserver+unix:///a@b/%20?#:", ServiceUrl(path="/a@b/%20?#:")),
        (ClientSettings().service_url, ServiceUrl("127.0.0.1", 12345)),
        (ClientSettings(host="::1", port=7).service_url, ServiceUrl("::1", 7)),
        (ClientSettings(host="a", url="pwserver://b:1").service_url, ServiceUrl("b", 1)),
    ],
)
def test_urls_that_name_a_service(url: str, parts: ServiceUrl) -> None:
    """Each part is taken from where it stands; the port is the usual one where it is not."""
    assert parse(url) == parts


@pytest.mark.parametrize(
    ("scheme", "address", "shown"),
    [
        ("pwserver", "book.example", "book.example:12345"),
        ("pwservers", "[::1]:7", "[::1]:7"),
        ("pwserver+unix", "/run/pw.sock", "/run/pw.sock"),
    ],
)
def test_a_url_may_bring_a_token_and_does_not_show_it(
    scheme: str, address: str, shown: str
) -> None:
    """Errors name the address alone, and nothing that prints the parts prints the token."""
    where = parse(f"{scheme}://{TOKEN}@{address}")
    assert where.token == Secret(TOKEN)
    assert str(where) == shown
    assert TOKEN not in repr(where) + pprint.pformat(where)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:12345",
        "http://SECRET",
        "pwserver:SECRET",
        "pwserver://",
        "pwserver://:12345",
        "pwserver://host:",
        "pwserver://host:0",
        "pwserver://host:65536",
        "pwserver://host:SECRET",
        "pwserver://host:123456",
        "pwserver://host/SECRET",
        "pwserver://host?SECRET",
        "pwserver://host#SECRET",
        "pwserver://::1",
        "pwserver://[host]",
        "pwserver://[::1",
        "pwserver://two words",
        "pwserver://host\n",
        "pwservers://",
        "pwserver+unix://",
        "pwserver+unix://SECRET",
        "pwserver+unix://SECRET/run/pw.sock",
        "pwserver+unix:///run/SECRET\0",
        "pwserver://@host",
        "pwserver://SECRET@host",
        "pwserver://user:SECRET@host",
        f"pwserver://user:{TOKEN}@host",
        f"pwserver://{TOKEN}:@host",
        f"pwserver://{TOKEN}SECRET@host",
        f"pwserver://{TOKEN}@",
        f"pwserver://{TOKEN}@host/SECRET",
        f"pwserver://SECRET@{TOKEN}@host",
        f"pwserver+unix://{TOKEN}/run/pw.sock",
        f"http://{TOKEN}@host",
    ],
)
def test_urls_that_name_no_service(url: str) -> None:
    """Anything else is refused at once, in one plain sentence that does not repeat the URL."""
    with pytest.raises(ConfigError, match=r"^the URL [^\n]{10,}\.$") as refusal:
        Client(url)
    assert "SECRET" not in str(refusal.value)
    assert TOKEN not in str(refusal.value)


# --- Tokens. ---


def test_the_token_is_the_first_there_is(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the URL, then that of `token_file`, then that of the environment; or none."""
    other = written(tmp_path / "other", OTHER_TOKEN)
    url, with_token = "pwserver://localhost", f"pwserver://{TOKEN}@localhost"
    assert access_to(url).token is None
    assert access_to(with_token, token_file=other).token == Secret(TOKEN)
    monkeypatch.setenv("PWSERVER_TOKEN_FILE", str(other))
    assert access_to(url).token == Secret(OTHER_TOKEN)
    assert access_to(url, token_file=token_file).token == Secret(TOKEN)
    assert access_to(url, token_file="").token is None, "it was said that there is none"
    assert access_to(with_token).token == Secret(TOKEN)
    monkeypatch.setenv("PWSERVER_TOKEN_FILE", "")
    assert access_to(url).token is None


def test_a_token_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors of other systems put one there, and nobody can see it."""
    file = written(tmp_path / "token", f"\N{BYTE ORDER MARK}{TOKEN}\r\n")
    assert access_to("pwserver://localhost", token_file=file).token == Secret(TOKEN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("SECRET", "must hold one line, a token"),
        (f"{TOKEN}SECRET", "must hold one line, a token"),
        (f"{TOKEN}\n{OTHER_TOKEN}\n", "must hold one line, a token"),
        (f"token = {TOKEN}", "must hold one line, a token"),
        (f"{TOKEN[:-1]}\xe9", "must hold one line, a token"),
        (f"{TOKEN}{'x' * 5000}", "must hold one line, a token"),
        (f"{TOKEN}{'x' * 70_000}", "is too long"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_file_without_a_token_is_refused(
    tmp_path: Path, kind: type, text: str, words: str
) -> None:
    """When the client is made, in a sentence that names the file and repeats nothing of it."""
    file = written(tmp_path / "token", text)
    with pytest.raises(ConfigError, match=rf"^token_file {file} {words}[^\n]*\.$") as refusal:
        kind(token_file=file)
    assert "SECRET" not in str(refusal.value)
    assert TOKEN[:-1] not in str(refusal.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o660])
def test_a_token_file_that_others_may_use_is_refused(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """As ssh refuses a key; but a credential that systemd guards is taken as it is."""
    token_file.chmod(mode)
    with pytest.raises(ConfigError, match=f"may be used by others.*chmod 600 {token_file}"):
        Client(token_file=token_file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    Client(token_file=token_file)
    token_file.chmod(0o400)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    Client(token_file=token_file)


def test_a_token_file_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence says which file and why, wherever its name came from."""
    with pytest.raises(ConfigError, match=r"none cannot be read: No such file or directory\.$"):
        Client(token_file=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"is a directory, and not a file\.$"):
        Client(token_file=tmp_path)
    with pytest.raises(ConfigError, match=r"^token_file holds a character that no file name has"):
        Client(token_file="a\0b")
    monkeypatch.setenv("PWSERVER_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="none cannot be read"):
        Client()


def test_a_token_in_place_of_its_file_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The easiest mistake there is does not put the token into an error."""
    for name in (TOKEN, f"/etc/{TOKEN}"):
        with pytest.raises(ConfigError, match=r"^token_file is a token;") as refusal:
            Client(token_file=name)
        assert TOKEN not in str(refusal.value)
    monkeypatch.setenv("PWSERVER_TOKEN_FILE", TOKEN)
    with pytest.raises(ConfigError, match=r"^token_file is a token;"):
        Client()


def test_nothing_of_a_client_shows_the_token(token_file: Path) -> None:
    """Neither a repr nor what a debugger lists of it."""
    client = Client(token_file=token_file)
    shown = [repr(client), pprint.pformat(vars(client)), pprint.pformat(vars(client._pool))]
    shown.append(repr(access_to("pwserver://localhost", token_file=token_file)))
    assert "Secret(...)" in "".join(shown)
    assert TOKEN not in "".join(shown)


@pytest.mark.parametrize(
    "address",
    ["book.example", "192.0.2.7:1", "[2001:db8::1]", "localhost.example", "127.1", "host"],
)
def test_a_token_is_not_sent_in_the_clear_to_another_machine(
    address: str, token_file: Path
) -> None:
    """Both clients refuse it when they are made, from wherever the token is; unless told to."""
    url, with_token = f"pwserver://{address}", f"pwserver://{TOKEN}@{address}"
    ways: list[tuple[str, dict[str, Any]]] = [(url, {"token_file": token_file}), (with_token, {})]
    for kind in (Client, AsyncClient):
        for where, options in ways:
            with pytest.raises(ConfigError, match=r"is another machine, .* use pwservers://") as no:
                kind(where, **options)
            assert TOKEN not in str(no.value)
            kind(where, **options, token_in_clear=True)
        kind(url)
    assert access_to(with_token, token_in_clear=True).token == Secret(TOKEN)


@pytest.mark.parametrize(
    "url",
    [
        "pwserver://127.0.0.1:1",
        "pwserver://127.8.8.8",
        "pwserver://[::1]",
        "pwserver://[::ffff:127.0.0.1]",
        "pwserver://localhost",
        "pwserver://LocalHost.:7",
        "pwservers://book.example",
        "pwserver+unix:///run/pw.sock",
    ],
)
def test_a_token_is_sent_on_this_machine_and_with_tls(url: str, token_file: Path) -> None:
    """Nobody in between can read it there."""
    assert access_to(url, token_file=token_file).token == Secret(TOKEN)


# --- Certificates. ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ca_file": "x"}, "^ca_file is set, and the URL does not begin with pwservers://"),
        ({"client_cert": "x"}, "^client_cert is set, and the URL does not"),
        ({"client_key": "x"}, "^client_cert is set, and the URL does not"),
    ],
)
@pytest.mark.parametrize("url", ["pwserver://host", "pwserver+unix:///path"])
def test_certificates_without_tls_are_refused(
    url: str, options: dict[str, Any], words: str
) -> None:
    """Nobody is to believe that a connection in the clear is a safe one."""
    with pytest.raises(ConfigError, match=words):
        Client(url, **options)


def test_certificates_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    """When the client is made; the sentence names the setting, the file and what is wrong."""
    authority = Authority(tmp_path)
    mine, other = authority.issue("mine"), authority.issue("other")
    text = written(tmp_path / "text", "SECRET")

    def refused(words: str, **options: Any) -> None:
        with pytest.raises(ConfigError, match=words) as refusal:
            Client("pwservers://host", **options)
        assert str(refusal.value).endswith(".")
        assert "SECRET" not in str(refusal.value)

    refused("^client_cert and client_key belong together", client_cert=mine.cert)
    refused("^client_cert and client_key belong together", client_key=mine.key)
    refused("^ca_file /none cannot be read: No such file", ca_file="/none")
    refused(f"^ca_file {text} must hold certificates", ca_file=text)
    refused("^ca_file holds a character that no file name has", ca_file="a\0b")
    refused("^client_cert /none cannot be read", client_cert="/none", client_key=mine.key)
    refused("^client_key /none cannot be read", client_cert=mine.cert, client_key="/none")
    refused(f"{text} must be a certificate and its key", client_cert=mine.cert, client_key=text)
    refused("key values mismatch", client_cert=mine.cert, client_key=other.key)
    Client("pwservers://host", client_cert=mine.cert, client_key=os.fspath(mine.key))
