"""Memory that has no path in a file system: files of one process, and numbers that several share.

The files are for what is only read from a file, but was checked before, or came from another
process. The memory has no name (memfd_create(2)): nothing can be found, cleaned away or left
behind, and neither /dev/shm nor a folder for temporary files is needed. Another process gets it by
its descriptor, which `fork_server` sends along.
"""

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

Code = Literal["Q", "d"]
_ITEM_BYTES = 8


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


class SharedArray:
    """An array of 64-bit numbers: unsigned integers ("Q") or floating point ("d").

    An aligned number is read and written as a whole, so that no lock is needed where each number
    is written by one process.
    """

    def __init__(self, code: Code, length: int, descriptor: int | None = None) -> None:
        """Make an array of zeros, or take the one that a descriptor gives access to."""
        self.code: Code = code
        self.length = length
        if descriptor is None:
            descriptor = os.memfd_create("pwserver")
            os.ftruncate(descriptor, length * _ITEM_BYTES)
        self._descriptor = descriptor
        self.numbers: memoryview[Any] = memoryview(
            mmap.mmap(descriptor, length * _ITEM_BYTES)
        ).cast(code)

    def fileno(self) -> int:
        """Return the descriptor of the memory."""
        return self._descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)
