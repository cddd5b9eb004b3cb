"""What the audit record knows as actions: each record has one, and each can be asked for."""

from typing import Literal, get_args

Action = Literal[
    "get",
    "verify",
    "restore",
    "delete",
    "denied",
    "authentication",
    "administration",
    "key change",
    "audit",
]

ACTIONS: tuple[Action, ...] = get_args(Action)
