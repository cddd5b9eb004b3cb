"""The commands that look at a running service with `--http`: health, a link to the page, `top`.

They ask the monitor through the Unix socket beside the database, so they need no token and no
address, but the right to use the files.
"""

import json
import os
import socket
import stat
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from pwserver import trust
from pwserver.cli import output
from pwserver.cli.book import STORE_DEFAULTS, Json, Store
from pwserver.config import StoreSettings
from pwserver.errors import ConnectionFailed, ExitCode, ServiceFailed, StorageFailed, StoreError

_TIMEOUT_S = 10.0


def _ask(settings: StoreSettings, path: str, method: str = "GET") -> tuple[int, str]:
    """Return the status and the text of the monitor's answer."""
    import http.client  # noqa: PLC0415 - slow to load, and only these commands need it

    _check_owner(settings)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(_TIMEOUT_S)
    try:
        connection.sock.connect(str(settings.http_path))
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (FileNotFoundError, ConnectionRefusedError):
        raise ConnectionFailed(f"no pwserver with --http runs on {settings.path}.") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or "there was no answer"
        raise ConnectionFailed(f"{settings.http_path} cannot be asked: {reason}.") from None
    finally:
        connection.close()


def _check_owner(settings: StoreSettings) -> None:
    """Raise `StoreError` if another user could have made the socket, to lead us elsewhere."""
    path = settings.http_path
    try:
        found = os.lstat(path)
        owners = {trust.ROOT, os.geteuid(), os.stat(settings.owned_path).st_uid}
    except OSError:
        return  # there is none, as `_ask` will find
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in owners:
        raise StoreError(f"{path} was not made by the service of {settings.path}.")


def told(settings: StoreSettings, after_ms: int = 0) -> dict[str, Any]:
    """Return what the page shows: of the samples those after a time."""
    status, text = _ask(settings, f"/page/data?after={after_ms}")
    if status != HTTPStatus.OK:
        raise ConnectionFailed(f"the monitor answered {status}.")
    found: dict[str, Any] = json.loads(text)
    return found


def health(*, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """Check that all processes answer (exit code 1 if not) and changes are saved (6 if not)."""
    alive, about_processes = _ask(settings, "/healthz")
    ready, about_changes = _ask(settings, "/readyz")
    sentences = [about_processes.strip(), about_changes.strip()]
    record = {
        "processes_answer": alive == HTTPStatus.OK,
        "changes_are_saved": ready == HTTPStatus.OK,
        "said": sentences,
    }
    well = [
        sentence
        for status, sentence in zip((alive, ready), sentences, strict=True)
        if status == HTTPStatus.OK
    ]
    output.plain(well, record, as_json=as_json)
    if alive != HTTPStatus.OK:
        raise ServiceFailed(_lower(sentences[0]))
    if ready != HTTPStatus.OK:
        raise StorageFailed(_lower(sentences[1]))
    return ExitCode.OK


def page(*, as_json: Json = False, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """Print a link to the page that shows the service; it is good once, for five minutes."""
    status, text = _ask(settings, "/page/link", "POST")
    if status != HTTPStatus.OK:
        raise ConnectionFailed(f"the monitor answered {status}.")
    link = json.loads(text)["link"]
    output.plain([link], {"link": link}, as_json=as_json)
    return ExitCode.OK


def top(*, settings: Store = STORE_DEFAULTS) -> ExitCode:
    """Show the service on the terminal, anew each second; q leaves."""
    from pwserver.cli import top as screen  # noqa: PLC0415 - slow to load

    return screen.show(lambda after_ms: told(settings, after_ms))


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


COMMANDS: tuple[Callable[..., ExitCode], ...] = (health, page, top)
"""In the order in which `pwserver --help` lists them."""
