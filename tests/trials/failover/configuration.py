"""The configuration of etcd, Patroni, PostgreSQL and HAProxy; docs/operations.md says why it is so.

Knows where everything listens, and starts nothing.
"""

from __future__ import annotations

import json
import random
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
_PORTS = range(10_000, 32_000)
"""Below those from which clients connect: else, while a node is down, a client could have its port.
"""

SUPERUSER, REPLICATION, SERVICE = "postgres", "replicator", "pwserver"
"""The roles: who administers, who replicates, and whose database the book is."""


def free_port() -> int:
    """Return a port that nobody listens on, and that no client is given."""
    while True:
        port = random.choice(_PORTS)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


@dataclass(frozen=True)
class Node:
    """One of the cluster's machines: a PostgreSQL server, and the Patroni that looks after it."""

    number: int
    port: int = field(default_factory=free_port)
    rest_port: int = field(default_factory=free_port)

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        return f"node{self.number}"


@dataclass(frozen=True)
class Etcd:
    """One of the members of etcd, in which Patroni keeps who is the primary."""

    number: int
    port: int = field(default_factory=free_port)
    peer_port: int = field(default_factory=free_port)

    @property
    def name(self) -> str:
        """Its name among them."""
        return f"etcd{self.number}"

    @property
    def peer_url(self) -> str:
        """Where the others find it."""
        return f"http://{HOST}:{self.peer_port}"


@dataclass(frozen=True)
class Places:
    """Folders, ports and the passwords of roles."""

    home: Path
    nodes: Sequence[Node]
    etcds: Sequence[Etcd]
    passwords: dict[str, str] = field(
        default_factory=lambda: {
            role: secrets.token_hex(16) for role in (SUPERUSER, REPLICATION, SERVICE)
        },
        repr=False,
    )

    def data(self, node: Node) -> Path:
        """Where the files of a node's PostgreSQL are."""
        return self.home / f"data{node.number}"


def etcd_options(places: Places, etcd: Etcd) -> list[str]:
    """Return the options of a member of etcd."""
    client = f"http://{HOST}:{etcd.port}"
    options = {
        "name": etcd.name,
        "data-dir": str(places.home / etcd.name),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": etcd.peer_url,
        "initial-advertise-peer-urls": etcd.peer_url,
        "initial-cluster": ",".join(f"{each.name}={each.peer_url}" for each in places.etcds),
        "log-level": "warn",
    }
    return [f"--{name}={value}" for name, value in options.items()]


_SERVER = {
    "synchronous_commit": "on",
    "wal_log_hints": "on",  # a node whose primary was killed comes back by pg_rewind
    "wal_sender_timeout": "5s",
    "wal_receiver_timeout": "5s",
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "max_connections": 100,
}

_SHARED = {
    "ttl": 20,  # as low as Patroni allows: for so long a dead or frozen machine keeps its place
    "loop_wait": 1,
    "retry_timeout": 3,
    "primary_start_timeout": 0,  # do not start a crashed primary first: fail over at once
    "primary_stop_timeout": 5,
    "synchronous_mode": "quorum",
    "synchronous_mode_strict": True,  # no standby left: commits wait
    "synchronous_node_count": 1,
    "failsafe_mode": True,  # without etcd, a primary that reaches all members goes on
    "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": _SERVER},
}


def patroni(places: Places, node: Node, programs: Path) -> str:
    """Return the configuration of a node's Patroni: YAML, of which JSON is a part."""
    rest, server = f"{HOST}:{node.rest_port}", f"{HOST}:{node.port}"
    home = places.home
    superuser, replication = (
        {"username": role, "password": places.passwords[role]} for role in (SUPERUSER, REPLICATION)
    )
    return json.dumps(
        {
            "scope": "book",
            "name": node.name,
            "restapi": {"listen": rest, "connect_address": rest},
            "etcd3": {"hosts": [f"{HOST}:{etcd.port}" for etcd in places.etcds]},
            "bootstrap": {
                "dcs": _SHARED,
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": server,
                "connect_address": server,
                "data_dir": str(places.data(node)),
                "bin_dir": str(programs),
                "pgpass": str(home / f"pgpass{node.number}"),
                "authentication": {"superuser": superuser, "replication": replication},
                "parameters": {"unix_socket_directories": str(home), "shared_buffers": "32MB"},
                "pg_hba": [
                    "local all all scram-sha-256",
                    f"host replication {REPLICATION} {HOST}/32 scram-sha-256",
                    f"host all all {HOST}/32 scram-sha-256",
                ],
            },
            "watchdog": {"mode": "off"},
        },
        indent=1,
    )


_HAPROXY = """
global
    maxconn 400
defaults
    mode tcp
    timeout connect 500ms
    timeout client 1h
    timeout server 1h
    timeout check 800ms
    retries 2
"""


def relay(nodes: Sequence[Node], ports: Sequence[int]) -> str:
    """Return the configuration of a HAProxy that leads from each port to a node, and no further.

    It tries once: who is led to a node that is down is to hear so at once, as without it.
    """
    return _HAPROXY + "".join(
        f"listen {node.name}\n    bind {HOST}:{port}\n"
        f"    retries 0\n    server it {HOST}:{node.port}\n"
        for node, port in zip(nodes, ports, strict=True)
    )


def balancer(nodes: Sequence[Node], port: int) -> str:
    """Return the configuration of a HAProxy that leads to the primary."""
    servers = "\n".join(
        f"    server {node.name} {HOST}:{node.port} check port {node.rest_port}" for node in nodes
    )
    return f"""{_HAPROXY}
listen primary
    bind {HOST}:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 500ms fastinter 200ms downinter 200ms fall 2 rise 1
    default-server on-marked-down shutdown-sessions
{servers}
"""
