"""The process in which libFuzzer makes inputs up, and has them checked.

    python -m tests.trials.fuzz.target framing|commands [what libFuzzer is told]

`__main__.py` starts it; it ends as libFuzzer does. The service's modules are instrumented when they
are imported, so they are imported here, and not at the top of this file. libFuzzer starts it again,
by the first of its arguments, to minimise a corpus.
"""

from __future__ import annotations

import random
import shlex
import sys
import tempfile
from pathlib import Path

import atheris

INSTRUMENTED = ["pwserver", "workers"]


def main() -> None:
    """Fuzz until libFuzzer has enough; never returns."""
    target, *arguments = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.trials.fuzz import corpora, words  # noqa: PLC0415

    def mutate(data: bytes, size_max: int, seed: int) -> bytes:
        return words.mutated(data, size_max, random.Random(seed), atheris.Mutate)

    with corpora.checking(target, Path(tempfile.mkdtemp())) as check:

        def test_one_input(data: bytes) -> None:
            check(data)

        again = f"{shlex.quote(sys.executable)} -m tests.trials.fuzz.target {target}"
        atheris.Setup([again, *arguments], test_one_input, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
