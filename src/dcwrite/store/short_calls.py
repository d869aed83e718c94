"""Calls that are short, and keep the interpreter's lock.

Alone here: what is short, and how to keep the lock. Invariant: the result is that of the call that
would give it up.

ctypes gives the interpreter's lock up for each call, and numpy for copies of more than 500 values.
While others wait for it they take it then, and who gave it up for a microsecond sleeps until they
have done: to wake a thread takes 20 to 40 us where its core is idle meanwhile
(docs/decisions/0028-who-keeps-the-lock.md).
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["SHORT_BYTES", "copied", "keeping_lock"]

#: Up to that many bytes take less time (4 us) than to get the lock back.
SHORT_BYTES: Final = 16 * 1024


def keeping_lock(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    """A function of a shared library that keeps the lock.

    Parameters
    ----------
    library
        The library.
    name
        Name of the function.
    result, arguments
        Types of ctypes.

    Raises
    ------
    AttributeError
        There is no such function.
    """
    return ctypes.PYFUNCTYPE(result, *arguments)((name, library))


def copied(data: Any, room_bytes: int = 0) -> npt.NDArray[np.uint8]:
    """The same bytes in memory of their own, with room behind them.

    Parameters
    ----------
    data
        Contiguous bytes.
    room_bytes
        Size of the room, whose content is undefined.
    """
    source = np.frombuffer(data, np.uint8)
    if source.size <= SHORT_BYTES:
        return np.frombuffer(bytearray().join((source.data, bytes(room_bytes))), np.uint8)
    memory = np.empty(source.size + room_bytes, np.uint8)
    memory[: source.size] = source
    return memory
