"""The import: saves what was read of a file, and reports what became of it.

It never overwrites silently. An entry is saved only if there is no user of its name. If there is
one with the same password, the entry is there already; with another one it is a conflict, unless
the import is to overwrite. So an import that was interrupted is run again as it is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pwserver.client.results import Saved
from pwserver.errors import Refused, VersionConflict
from pwserver.moving.books import CHUNK, Book
from pwserver.moving.entries import Export, Finding
from pwserver.moving.naming import Named, Template, named
from pwserver.wire.messages import VERSION_MAX

Fate = Literal["saved", "overwritten", "already there", "conflict", "refused"]

_NEW = 0  # the version of a user that is not there
_NEVER = VERSION_MAX
"""A version that no user has. A save over it does nothing, but tells what is there."""

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Report:
    """What became of a file. A line of the file is in one of the counts, or is left out."""

    export: Export
    findings: list[Finding] = field(default_factory=list)
    fates: Counter[Fate] = field(default_factory=Counter)

    def count(self, kind: str) -> int:
        """Return how many findings there are of a kind."""
        return sum(1 for each in self.findings if each.kind == kind)

    @property
    def incomplete(self) -> bool:
        """Whether something that should have been saved was not."""
        return any(each.kind in ("broken", "conflict") for each in self.findings)


class Import:
    """One run. `template` is None for the one that the format has."""

    def __init__(
        self, export: Export, template: Template | None, *, overwrite: bool, dry_run: bool
    ) -> None:
        self._wanted, findings = named(export, template or Template(export.template))
        self.report = Report(export, [*export.findings, *findings])
        self._overwrite = overwrite
        self._dry_run = dry_run

    def run(self, book: Book, progress: Progress) -> Iterator[tuple[Named, Fate]]:
        """Save everything; yield each entry with its fate, some at a time.

        `report` says at any time what was done so far.
        """
        total = len(self._wanted)
        progress(0, total)
        for at in range(0, total, CHUNK):
            wanted = self._wanted[at : at + CHUNK]
            fates = self._save(book, wanted)
            self.report.fates.update(fates)
            progress(at + len(wanted), total)
            yield from zip(wanted, fates, strict=True)

    def _save(self, book: Book, wanted: Sequence[Named]) -> list[Fate]:
        """Save some entries; return the fate of each."""
        version = _NEVER if self._dry_run else _NEW
        fates: dict[str, Fate] = {}
        there: list[tuple[Named, int]] = []  # with the version that is there
        for each, result in _results(book, wanted, version):
            if isinstance(result, VersionConflict) and result.version != _NEW:
                there.append((each, result.version))
            elif isinstance(result, Saved | VersionConflict):
                fates[each.name] = "saved"
            else:
                fates[each.name] = self._refused(each, result)
        differing = self._compared(book, there, fates)
        if self._overwrite and differing and not self._dry_run:
            differing = self._overwritten(book, differing, fates)
        for each, _ in differing:
            fates[each.name] = "overwritten" if self._overwrite and self._dry_run else "conflict"
            if fates[each.name] == "conflict":
                what = f"is in conflict: {each.name!r} is there with another password."
                self._say(each, "conflict", what)
        return [fates[each.name] for each in wanted]

    def _compared(
        self, book: Book, there: list[tuple[Named, int]], fates: dict[str, Fate]
    ) -> list[tuple[Named, int]]:
        """Return those of which the password differs from the one that is there."""
        valid = book.verify([each for each, _ in there]) if there else []
        fates.update(
            (each.name, "already there")
            for (each, _), same in zip(there, valid, strict=True)
            if same
        )
        return [each for each, same in zip(there, valid, strict=True) if not same]

    def _overwritten(
        self, book: Book, differing: list[tuple[Named, int]], fates: dict[str, Fate]
    ) -> list[tuple[Named, int]]:
        """Save over what is there; return what was changed by somebody else meanwhile."""
        changed: list[tuple[Named, int]] = []
        for (each, version), result in zip(differing, book.save(differing), strict=True):
            if isinstance(result, Saved):
                fates[each.name] = "overwritten"
            elif isinstance(result, VersionConflict):
                changed.append((each, version))
            else:
                fates[each.name] = self._refused(each, result)
        return self._compared(book, changed, fates)

    def _refused(self, each: Named, error: Refused) -> Fate:
        self._say(each, "broken", f"is refused by the service: {error}")
        return "refused"

    def _say(self, each: Named, kind: Literal["broken", "conflict"], what: str) -> None:
        self.report.findings.append(Finding(each.line, kind, what))


def _results(
    book: Book, wanted: Sequence[Named], version: int
) -> Iterator[tuple[Named, Saved | Refused]]:
    return zip(wanted, book.save([(each, version) for each in wanted]), strict=True)
