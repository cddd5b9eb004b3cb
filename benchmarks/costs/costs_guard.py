"""What it costs to guard the book: knowing a token, recording what was done, and TLS."""

from __future__ import annotations

import contextlib
import functools
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.costs.costing import REPETITIONS, Cost, per_call
from benchmarks.costs.costs_worker import CALLER, PING, context_of
from benchmarks.servers.certificates import make_certificate
from pwserver.secret import Secret
from workers.auth.applications import new_token, token_hash
from workers.serving.context import Context
from workers.tls.certificates import TlsFiles
from workers.tls.records import Codec

HOST = "127.0.0.1"
REPLY = b'{"message": "Alive!"}\n'
RECORDS = 500
RECORDS_TLS = 2000
BURST = 64


def recording(folder: Path) -> Iterator[Cost]:
    """Measure a token, and the audit record, which a worker writes once a turn."""
    token = new_token().reveal()
    yield "hash a token", per_call(lambda: token_hash(token), 20_000)
    context = context_of(folder / "recorded.db")
    for number in (1, BURST):
        record = functools.partial(record_reading, context, number)
        yield f"record a reading, {number} at a time", per_call(record, RECORDS, number)
    context.audit.close()


def record_reading(context: Context, number: int) -> None:
    """Record so many readings of one turn."""
    now_ms = time.time_ns() // 1_000_000
    for _ in range(number):
        context.audit.note(
            time_ms=now_ms,
            application=CALLER.application,
            address="127.0.0.1:54321",
            action="get",
            user="name-000000-00",
            outcome="ok",
        )
    assert context.audit.write()


class Tls:
    """Both sides of a TLS connection, their handshake done, with nothing but memory between."""

    def __init__(self, service: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.codec = Codec(service)
        self._arrived, self._unsent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._client = client.wrap_bio(self._arrived, self._unsent, server_hostname=HOST)
        done = False
        while not done:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._client.do_handshake()
            done = self.codec.shake(self._unsent.read())
            self._arrived.write(self.codec.unsent())

    def from_client(self, text: bytes) -> bytes:
        """Return the records in which the client sends a text."""
        self._client.write(text)
        return self._unsent.read()


def speaking_tls(folder: Path) -> Iterator[Cost]:
    """Measure what TLS adds to a worker's share of a request, without any socket."""
    cert, key = make_certificate(folder, HOST)
    service = TlsFiles(cert.read_bytes(), Secret(key.read_bytes()), b"").context()
    client = ssl.create_default_context(cafile=str(cert))
    tls = Tls(service, client)
    for depth in (1, BURST):
        calls = RECORDS_TLS // depth
        records = [tls.from_client(PING * depth) for _ in range(calls * REPETITIONS)]
        decrypt = functools.partial(decrypt_next, tls.codec, iter(records))
        yield f"decrypt a request, {depth} at a time", per_call(decrypt, calls, depth)
        encrypt = functools.partial(tls.codec.encrypt, REPLY * depth)
        yield f"encrypt a reply, {depth} at a time", per_call(encrypt, calls, depth)
    yield "a TLS handshake, both sides together", per_call(lambda: Tls(service, client), 20)


def decrypt_next(codec: Codec, records: Iterator[bytes]) -> None:
    """Decrypt the next record, and make sure that it is what it should be."""
    assert codec.decrypt(next(records)).startswith(PING)
