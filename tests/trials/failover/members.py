"""What Patroni says of the cluster, and is asked for, over its REST interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.trials.failover.configuration import HOST, Node

_TIMEOUT_S = 2.0
_SWITCHOVER_TIMEOUT_S = 60.0
_STANDBY = ("quorum_standby", "streaming")


@dataclass(frozen=True)
class Member:
    """A node as the cluster sees it."""

    node: Node
    role: str
    state: str
    timeline: int

    @property
    def leads(self) -> bool:
        """Whether it is the primary."""
        return self.role == "leader" and self.state == "running"


def members(nodes: Sequence[Node]) -> list[Member]:
    """Return the nodes as the first Patroni that answers sees them."""
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        with suppress(OSError, ValueError):
            url = f"http://{HOST}:{node.rest_port}/cluster"
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
                found = json.load(reply)["members"]
            return [
                Member(
                    by_name[each["name"]],
                    each["role"],
                    each["state"],
                    int(each.get("timeline") or 0),
                )
                for each in found
            ]
    return []


def whole(nodes: Sequence[Node]) -> bool:
    """Tell whether all others follow the primary, and commits wait for one of them.

    What is said of a node that was killed or frozen is for a while that of before: it is not taken
    for one that follows.
    """
    found = members(nodes)
    standbys = [each for each in found if (each.role, each.state) == _STANDBY]
    return (
        any(each.leads for each in found)
        and len(standbys) == len(nodes) - 1
        and len({each.timeline for each in found}) == 1
    )


def ask_to_switch(old: Node, new: Node) -> str:
    """Ask for a switchover, and wait for it; return why it was refused, if it was."""
    asked = json.dumps({"leader": old.name, "candidate": new.name}).encode()
    url = f"http://{HOST}:{old.rest_port}/switchover"
    request = urllib.request.Request(url, asked, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_SWITCHOVER_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode(errors="replace")
