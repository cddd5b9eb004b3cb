"""Files in memory, that no path of a file system leads to.

For what is only read from a file, but was checked before, or came from another process.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO


def file_of(content: bytes) -> BinaryIO:
    """Return a file with some content, at its beginning."""
    file = os.fdopen(os.memfd_create("pwserver"), "w+b", buffering=0)
    file.write(content)
    file.seek(0)
    return file


@contextlib.contextmanager
def path_of(content: bytes) -> Iterator[str]:
    """Yield a path at which this process alone finds some content."""
    with file_of(content) as file:
        yield f"/proc/self/fd/{file.fileno()}"
