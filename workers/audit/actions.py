"""The actions in the audit record: each record has one, and a search can select one."""

from typing import Literal, get_args

Action = Literal[
    "get",
    "verify",
    "restore",
    "delete",
    "listing",
    "denied",
    "authentication",
    "administration",
    "key change",
    "audit",
]

ACTIONS: tuple[Action, ...] = get_args(Action)
