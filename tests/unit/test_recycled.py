"""Memory that is used again belongs to one array at a time."""

from __future__ import annotations

import gc

import numpy as np

from dcwrite.stream.recycled import RecycledMemory

DTYPE = np.dtype(np.uint16)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_comes_back_with_the_last_view() -> None:
    memory = RecycledMemory(10**8)
    first = memory.empty((300, 1000), DTYPE)
    where, view = address(first), first[10:20]
    del first
    second = memory.empty((300, 1000), DTYPE)
    assert address(second) != where  # the view is still there
    del view
    gc.collect()
    assert address(memory.empty((300, 1000), DTYPE)) == where


def test_sizes_may_differ_a_little() -> None:
    memory = RecycledMemory(10**8)
    where = address(memory.empty((300, 1000), DTYPE))
    gc.collect()
    again = memory.empty((299, 1000), DTYPE)
    assert address(again) == where
    assert again.shape == (299, 1000)
    assert again.dtype == DTYPE


def test_what_is_free_is_bounded() -> None:
    memory = RecycledMemory(10**6)
    held = [memory.empty((300, 1000), DTYPE) for _ in range(5)]
    addresses = {address(array) for array in held}
    held.clear()
    gc.collect()
    memory.empty((10**6,), DTYPE)
    assert sum(map(len, memory._free)) <= 10**6
    assert len(addresses) == 5


def test_small_arrays_are_their_own() -> None:
    assert RecycledMemory(10**6).empty((10,), DTYPE).base is None
