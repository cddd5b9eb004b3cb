"""Processes of tests that share numbers, by multiprocessing's own means."""

import multiprocessing
from multiprocessing import reduction

from pwserver.shared_memory import Code, SharedArray

CONTEXT = multiprocessing.get_context("forkserver")


def _shared(code: Code, length: int, descriptor: reduction.DupFd) -> SharedArray:
    return SharedArray(code, length, descriptor.detach())


def _reduced(array: SharedArray) -> object:
    return _shared, (array.code, array.length, reduction.DupFd(array.fileno()))


reduction.register(SharedArray, _reduced)
