"""Images of all moments of a record, made and opened by several processes.

A moment is after one event and before the next. Each from the scenario's own mark on gets images,
and more where more is pending; those before it, which only lead there, get one here and there. An
image that was opened at the moment before is not opened again, only held against what was promised
since.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random

from tests.trials.powerloss.disk import Disk, Names
from tests.trials.powerloss.events import Mark
from tests.trials.powerloss.images import Image, choose, fates
from tests.trials.powerloss.opening import Audit, Found, opened
from tests.trials.powerloss.promises import Broken, Kind, Promises
from tests.trials.powerloss.scenarios import BEGIN, Recorded
from tests.trials.powerloss.traced import DATABASE

MEMORY = Path("/dev/shm")
"""Where images are written, if it is there: nothing of them needs a disk."""

BEFORE_SHARE = 0.05
"""Of the images that a moment gets, what one before the scenario's mark gets."""

TRIES = 3
"""How many choices are made for an image that was not there yet."""

PARTS = 16
"""In which a record is cut, for progress and so that no process waits for another."""

SHOWN_MAX = 5

_ROUNDING = 0.999
"""What every part has more than its share, so that all together have no fewer images than asked."""


@dataclass
class Tally:
    """What came of some images."""

    images: int = 0
    opened: int = 0
    moments: int = 0
    broken: Counter[Kind] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    audit: Counter[Audit] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add what came of others."""
        self.images += other.images
        self.opened += other.opened
        self.moments += other.moments
        self.broken += other.broken
        self.audit += other.audit
        self.shown = [*self.shown, *other.shown][:SHOWN_MAX]


@dataclass(frozen=True)
class Trial:
    """A record that is tried: how many images each moment gets, and where broken ones are kept."""

    recorded: Recorded
    promises: Promises
    rule: Names
    seed: str
    quotas: list[float]
    keep: Path | None

    @classmethod
    def of(
        cls, recorded: Recorded, images: int, rule: Names, seed: str, keep: Path | None
    ) -> Trial:
        """Share out so many images among the moments of a record."""
        events = recorded.record.events
        promises = Promises(recorded.ledger, events)
        quotas = _quotas(recorded, images, rule)
        return cls(recorded, promises, rule, seed, quotas, keep)


def _quotas(recorded: Recorded, images: int, rule: Names) -> list[float]:
    disk = Disk(recorded.record.initial, rule)
    weights = []
    share = BEFORE_SHARE
    for event in recorded.record.events:
        disk.take(event)
        if isinstance(event, Mark) and event.text == BEGIN:
            share = 1.0
        weights.append(share * math.sqrt(1 + disk.pending))
    total = sum(weights)
    return [images * weight / total for weight in weights]


def run(trial: Trial, processes: int, progress: Callable[[], None]) -> Tally:
    """Try all images; `progress` is called after each of about `PARTS` parts."""
    global _trial
    _trial = trial  # inherited by the processes, so that no record is copied
    parts = list(_parts(trial.quotas))
    total = Tally()
    with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
        for done in as_completed([pool.submit(_try, *part) for part in parts]):
            total.add(done.result())
            progress()
    return total


_trial: Trial


def _parts(quotas: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Yield moments from where to where, so that all parts have about as many images."""
    share, begin, had = sum(quotas) / PARTS, 0, 0.0
    for at, quota in enumerate(quotas):
        had += quota
        if had >= share or at == len(quotas) - 1:
            yield begin, at + 1
            begin, had = at + 1, 0.0


def _try(begin: int, end: int) -> Tally:
    """Try the images of some moments."""
    logging.disable()  # what the service has to say of an image is no news
    home = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="pwserver-image-", dir=home) as folder:
        attempt = _Attempt(_trial, Path(folder), Random(f"{_trial.seed} {begin}"))
        disk = Disk(_trial.recorded.record.initial, _trial.rule)
        owed = _ROUNDING
        for at, event in enumerate(_trial.recorded.record.events[:end]):
            disk.take(event)
            if at >= begin:
                owed += _trial.quotas[at]
                owed -= attempt.moment(disk, at + 1, math.floor(owed))
        return attempt.tally


class _Attempt:
    """Makes images in a folder and opens them."""

    def __init__(self, trial: Trial, folder: Path, random: Random) -> None:
        self._trial = trial
        self._folder = folder
        self._random = random
        self._known: dict[bytes, Found | Broken] = {}
        self.tally = Tally()

    def moment(self, disk: Disk, events: int, wanted: int) -> int:
        """Try so many images of a moment, or as many as there are; return how many."""
        now: dict[bytes, Found | Broken] = {}
        for fate in islice(fates(self._random), wanted * TRIES):
            if len(now) == wanted:
                break
            image = choose(disk, fate, self._random)
            key = image.key()
            if key not in now:
                now[key] = self._known[key] if key in self._known else self._opened(image)
                self._judge(image, now[key], events)
        if now:
            self._known = now
            self.tally.moments += 1
        self.tally.images += len(now)
        return len(now)

    def _opened(self, image: Image) -> Found | Broken:
        self.tally.opened += 1
        image.write(self._folder, DATABASE)
        try:
            found = opened(self._folder)
        except Exception as error:
            return Broken(Kind.UNOPENED, f"{type(error).__name__}: {error}")
        self.tally.audit[found.audit] += 1
        return found

    def _judge(self, image: Image, found: Found | Broken, events: int) -> None:
        promises = self._trial.promises
        broken = [found] if isinstance(found, Broken) else list(promises.broken(found, events))
        if not broken:
            return
        self.tally.broken.update({each.kind for each in broken})
        if len(self.tally.shown) < SHOWN_MAX:
            where = f"{self._trial.recorded.name}, after event {events}"
            self.tally.shown.append(f"{where}: {broken[0].text}{self._kept(image, events)}")

    def _kept(self, image: Image, events: int) -> str:
        """Keep an image for who wants to look at it; return where."""
        if self._trial.keep is None:
            return ""
        name = f"{self._trial.recorded.name}-{events}-{self.tally.opened}"
        folder = self._trial.keep / name
        folder.mkdir(parents=True)
        image.write(folder, DATABASE)
        return f" ({folder})"
