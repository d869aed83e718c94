"""Calls that keep the interpreter's lock: the results are those of calls that give it up."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite.store.short_calls import SHORT_BYTES, copied, keeping_lock


@pytest.mark.parametrize("size", [0, 1, 4096, SHORT_BYTES, SHORT_BYTES + 1, 5 * SHORT_BYTES])
@pytest.mark.parametrize("room_bytes", [0, 4])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.asarray])
def test_a_copy_has_the_same_bytes_and_room(size: int, room_bytes: int, kind: Any) -> None:
    expected = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    given = expected.copy() if kind is np.asarray else kind(expected.tobytes())
    copy = copied(given, room_bytes)
    assert copy.size == size + room_bytes
    copy[size:] = 7  # it can be written to
    np.testing.assert_array_equal(copy[:size], expected)
    copy[:size] ^= 255
    assert bytes(given) == expected.tobytes()  # nothing of it is shared


def turns_meanwhile(function: Any, *arguments: Any) -> int:
    """Turns of another thread in the first half of the time that a function takes."""
    start = time.perf_counter()
    function(*arguments)
    half = (time.perf_counter() - start) / 2
    turns: list[float] = []
    stop = threading.Event()

    def note_turns() -> None:
        while not stop.is_set():
            turns.append(time.perf_counter())

    thread = threading.Thread(target=note_turns)
    thread.start()
    try:
        while not turns:
            pass
        start = time.perf_counter()
        function(*arguments)
    finally:
        stop.set()
        thread.join()
    return sum(start < turn < start + half for turn in turns)


def test_the_lock_is_kept() -> None:
    """HDF5's checksum of 64 MB takes 20 ms, many turns of another thread.

    The lock may change hands just before the call, so one of some tries has to be without a turn.
    """
    name = "H5_checksum_fletcher32"
    library = ctypes.CDLL(getattr(h5py.h5, "__file__", ""))
    giving = getattr(library, name, None)
    if giving is None:
        pytest.skip("HDF5's own function cannot be called here")
    giving.restype, giving.argtypes = ctypes.c_uint32, [ctypes.c_void_p, ctypes.c_size_t]
    keeping = keeping_lock(library, name, giving.restype, *giving.argtypes)
    data = np.random.default_rng(0).integers(0, 256, 64_000_000, np.uint8)
    arguments = data.ctypes.data, data.size
    assert keeping(*arguments) == giving(*arguments)
    assert min(turns_meanwhile(keeping, *arguments) for _ in range(10)) == 0
    assert max(turns_meanwhile(giving, *arguments) for _ in range(3)) > 0


def test_a_function_that_is_not_there() -> None:
    library = ctypes.CDLL(getattr(h5py.h5, "__file__", ""))
    with pytest.raises(AttributeError):
        keeping_lock(library, "no_such_function", ctypes.c_int)
