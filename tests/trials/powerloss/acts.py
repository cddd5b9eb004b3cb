"""The scenarios that are recorded.

Each has a moment from which on it is about what it is called; before that it gets there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pwserver.limits import CHECKPOINT_PAGES
from pwserver.wire.messages import Right
from tests.support.harness import Service
from tests.support.shell import TREE_ENVIRONMENT
from tests.trials.powerloss.ledger import Ledger
from tests.trials.powerloss.players import Cast
from tests.trials.powerloss.record import Record
from tests.trials.powerloss.stage import SERVICE, Stage
from tests.trials.report import TrialFailed

BEGIN = "begin"
"""The mark of that moment."""

RIGHTS: Sequence[Right] = ("save", "count", "get", "verify", "list", "delete")
APPLICATION = "player"

FRAME_BYTES, LOG_HEAD_BYTES = 24 + 4096, 32
"""Of SQLite's write-ahead log."""

FILLING_LENGTH = 4096
"""Of passwords that are to fill the log soon: the longest that there may be."""

FILLED_PAGES = CHECKPOINT_PAGES - 30
ROUNDS_MAX = 1000
ROTATIONS_MAX = 10


@dataclass(frozen=True)
class Act:
    """A scenario: what it is called, and what is done on the stage."""

    name: str
    play: Callable[[Stage, Random], None]
    is_first: bool = False
    """Whether there is no book before."""


@dataclass(frozen=True)
class Recorded:
    """An act that was played: what happened, and what was asked for."""

    name: str
    record: Record
    ledger: Ledger


def record(act: Act, random: Random, directory: Path, program: str = SERVICE) -> Recorded:
    """Play an act on a stage of its own, and return what came of it."""
    with tempfile.TemporaryDirectory(prefix="pwserver-powerloss-", dir=directory) as home:
        folder = Path(home).resolve()
        (folder / "book").mkdir()
        token = "" if act.is_first else _prepare(folder / "book")
        with Stage(folder, token, program) as stage:
            stage.ledger.applications = frozenset({APPLICATION} if token else ())
            act.play(stage, random)
        return Recorded(act.name, stage.record(), stage.ledger)


def _prepare(folder: Path) -> str:
    """Make a book with an application, unrecorded; return the application's token."""
    with Service(folder, env=TREE_ENVIRONMENT) as service:
        token = service.wait_until_listening().add_application(APPLICATION, RIGHTS)
        if service.stop():
            raise TrialFailed(f"the service did not end well: {service.stderr}")
    return token


def _cast(stage: Stage, random: Random) -> Cast:
    return Cast(stage.serve(), stage.token, stage.ledger, random)


# --- The acts. ---


def first(stage: Stage, random: Random) -> None:
    """Have the key file and the database made, and the first saves in them."""
    stage.mark(BEGIN)
    cast = _cast(stage, random)
    cast.play(12)
    cast.leave()
    stage.kill()


def steady(stage: Stage, random: Random) -> None:
    """Save, label, delete and read, as on any day."""
    cast = _cast(stage, random)
    cast.play(3)
    stage.mark(BEGIN)
    cast.play(30)
    cast.leave()
    stage.kill()


def checkpoint(stage: Stage, random: Random) -> None:
    """Fill the log until it is copied to the database."""
    cast = _cast(stage, random)
    _fill(stage, cast)
    stage.mark(BEGIN)
    _play_until_reset(stage, cast)
    cast.play(2)
    cast.leave()
    stage.kill()


def reset(stage: Stage, random: Random) -> None:
    """Write over a log that was copied to the database."""
    cast = _cast(stage, random)
    _fill(stage, cast)
    _play_until_reset(stage, cast)
    stage.mark(BEGIN)
    cast.play(25)
    cast.leave()
    stage.kill()


def restart(stage: Stage, random: Random) -> None:
    """Stop the service and start it again, and so once more."""
    cast = _cast(stage, random)
    cast.play(10)
    stage.mark(BEGIN)
    for _ in range(2):
        cast.leave()
        stage.stop()
        cast = _cast(stage, random)
        cast.play(4)
    cast.leave()
    stage.stop()


def killed(stage: Stage, random: Random) -> None:
    """Kill the service in the middle of saves; start it on what it left, and save more."""
    port = stage.serve()
    cast = Cast(port, stage.token, stage.ledger, random)
    cast.play(10)
    guests = Cast(port, "", stage.ledger, random, each=6)
    stage.mark(BEGIN)
    for player in guests.players:
        player.play()  # and nobody waits for the answers
    stage.kill()
    cast.leave()
    guests.leave()
    cast = _cast(stage, random)
    cast.play(10)
    cast.leave()
    stage.kill()


def rotation(stage: Stage, random: Random) -> None:
    """Add a key, seal everything again with it, and retire the old one, beside saves."""
    cast = _cast(stage, random)
    cast.play(15)
    stage.mark(BEGIN)
    stage.administer("key", "add", holds=lambda keys: 2 in keys.in_file)
    cast.play()
    for _ in range(ROTATIONS_MAX):
        stage.administer("key", "rotate", holds=lambda keys: keys.sealing == 2, meanwhile=cast.play)
        if stage.administer(
            *("key", "retire", "1"),
            holds=lambda keys: 1 not in keys.in_database | keys.in_file | keys.used,
            meanwhile=cast.play,
            may_refuse=True,  # a worker may have sealed with the old key until its next tick
        ):
            break
    else:
        raise TrialFailed(f"after {ROTATIONS_MAX} rotations the old key is still needed")
    cast.play(2)
    cast.leave()
    stage.kill()


def _log_pages(log: bytes) -> int:
    return max(0, len(log) - LOG_HEAD_BYTES) // FRAME_BYTES


def _fill(stage: Stage, cast: Cast) -> None:
    """Save until the log is nearly long enough to be copied."""
    while _log_pages(stage.log) < FILLED_PAGES:
        cast.players[0].save(FILLING_LENGTH)


def _play_until_reset(stage: Stage, cast: Cast) -> None:
    """Go on until the log has another beginning: it was copied, and is written over."""
    beginning = stage.log[:LOG_HEAD_BYTES]
    for _ in range(ROUNDS_MAX):
        cast.play()
        if stage.log[:LOG_HEAD_BYTES] != beginning:
            return
    raise TrialFailed(f"the log was not begun again within {ROUNDS_MAX} rounds of saves")


ACTS = (
    Act("first", first, is_first=True),
    Act("steady", steady),
    Act("checkpoint", checkpoint),
    Act("reset", reset),
    Act("restart", restart),
    Act("killed", killed),
    Act("rotation", rotation),
)
