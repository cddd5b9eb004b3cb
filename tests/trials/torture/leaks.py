"""Looks for secrets in everything that the service wrote: in the clear, or as good as.

Every password of a run begins with the same canary, so one look finds any of them; a token is known
by its form, whoever's it is; and of the keys all that are in the key file are looked for elsewhere.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

CHUNK_BYTES = 4 << 20
OVERLAP_BYTES = 512
"""Longer than anything that is looked for."""

TOKEN = rb"pwserver_[A-Za-z0-9_-]{40,}"


def secrets_found(files: Iterable[Path], canary: str, key_file: Path) -> list[str]:
    """Return in which files a secret stands, and what kind of secret."""
    kinds = {
        "a password": b"|".join(map(re.escape, _forms(canary.encode()))),
        "a token": TOKEN,
        "a key": b"|".join(map(re.escape, _keys(key_file))),
    }
    found = []
    for file in files:
        chunks = list(kinds) if file != key_file else ["a password", "a token"]
        found += [f"{kind} in {file.name}" for kind in chunks if _holds(file, kinds[kind])]
    return found


def written_in(*folders: Path) -> list[Path]:
    """Return all files in some folders; core files would be among them."""
    return [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]


def _holds(file: Path, pattern: bytes) -> bool:
    wanted = re.compile(pattern)
    return any(wanted.search(chunk) for chunk in _chunks(file))


def _chunks(file: Path) -> Iterator[bytes]:
    """Yield a file in pieces that overlap, so that none cuts anything."""
    with file.open("rb") as opened:
        tail = b""
        while chunk := opened.read(CHUNK_BYTES):
            yield tail + chunk
            tail = chunk[-OVERLAP_BYTES:]


def _forms(secret: bytes) -> set[bytes]:
    """Return a text as it may stand in a file: plain, as hex, or within base64."""
    forms = {secret, secret.hex().encode(), secret.decode().encode("utf-16-le")}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + secret)
        forms.add(encoded[(0, 2, 3)[shift] : -4])  # what depends on the secret alone
    return forms


def _keys(key_file: Path) -> set[bytes]:
    """Return the keys of a key file, as they are and as they stand there."""
    encoded = {line.split()[2] for line in key_file.read_bytes().splitlines()}
    return encoded | {base64.b64decode(key) for key in encoded}
