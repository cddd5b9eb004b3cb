"""Processes of tests that share numbers, by multiprocessing's own means."""

import multiprocessing
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

from pwserver.shared_memory import Code, SharedArray

CONTEXT = multiprocessing.get_context("forkserver")


def _shared(code: Code, length: int, descriptor: Any) -> SharedArray:
    return SharedArray(code, length, descriptor.detach())


def _reduced(array: SharedArray) -> tuple[Callable[..., SharedArray], tuple[Any, ...]]:
    return _shared, (array.code, array.length, reduction.DupFd(array.fileno()))


reduction.register(SharedArray, _reduced)
