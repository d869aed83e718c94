"""Fletcher-32 of chunks, as HDF5 has it, without the interpreter's lock.

Alone here: whose function computes it. Invariant: what is appended is what HDF5's own filter
appends and accepts.

HDF5 exports the function of its filter. It is the same arithmetic as that of numcodecs, but called
through ctypes it leaves the interpreter's lock to the other threads: 0.2 ms for each chunk of
images, in which nobody else could do anything. Where it cannot be called, or does not agree with
numcodecs, numcodecs does it (docs/decisions/0025-a-lean-writer-thread.md). Short chunks are done
before others could have had the lock, and keep it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt
from numcodecs.fletcher32 import Fletcher32

from .short_calls import SHORT_BYTES, copied, keeping_lock

__all__ = [
    "FLETCHER32_BYTES",
    "append_fletcher32",
    "chunk_checksum",
    "fletcher32",
    "with_fletcher32",
    "without_fletcher32",
]

#: What the filter appends to a chunk: the sum in little-endian order (HDF5's H5Zfletcher32.c).
FLETCHER32_BYTES: Final = 4

Bytes = npt.NDArray[np.uint8]
_Sum = Callable[[Bytes], int]

_codec = Fletcher32()


def _sum_of_numcodecs(data: Bytes) -> int:
    return int.from_bytes(bytes(_codec.encode(data))[-FLETCHER32_BYTES:], "little")


def _sum_of_hdf5() -> _Sum | None:
    """HDF5's own function, where it can be found and agrees with numcodecs."""
    folder = Path(h5py.__file__).parent
    # h5py's modules bring the library that they are linked to; on Windows it is asked itself
    for library in (getattr(h5py.h5, "__file__", None), folder / "hdf5.dll"):
        with suppress(AttributeError, OSError, TypeError):
            cdll, name = ctypes.CDLL(str(library)), "H5_checksum_fletcher32"
            giving = getattr(cdll, name)
            giving.restype, giving.argtypes = ctypes.c_uint32, [ctypes.c_void_p, ctypes.c_size_t]
            keeping = keeping_lock(cdll, name, giving.restype, *giving.argtypes)

            def sum_of_hdf5(data: Bytes, giving: Any = giving, keeping: Any = keeping) -> int:
                function = keeping if data.size <= SHORT_BYTES else giving
                return int(function(data.ctypes.data, data.size))

            samples = (np.arange(size, dtype=np.uint8) for size in (1, 2, 3, 721, 2000))
            if all(sum_of_hdf5(sample) == _sum_of_numcodecs(sample) for sample in samples):
                return sum_of_hdf5
    return None


_sum: Final[_Sum] = _sum_of_hdf5() or _sum_of_numcodecs


def fletcher32(data: Any) -> int:
    """Fletcher-32 of some bytes.

    Parameters
    ----------
    data
        Contiguous bytes, at least one.
    """
    return _sum(np.frombuffer(data, np.uint8))


def with_fletcher32(data: Any) -> memoryview:
    """The same bytes with their checksum behind them, in memory of their own.

    Parameters
    ----------
    data
        Contiguous bytes, at least one.
    """
    return append_fletcher32(copied(data, FLETCHER32_BYTES))


def append_fletcher32(memory: Bytes) -> memoryview:
    """Put the checksum of all bytes but the last four into these.

    Parameters
    ----------
    memory
        At least five bytes.
    """
    found = _sum(memory[:-FLETCHER32_BYTES])
    memory.data[-FLETCHER32_BYTES:] = found.to_bytes(FLETCHER32_BYTES, "little")
    return memory.data


def without_fletcher32(stored: Any) -> Bytes:
    """The bytes before a checksum, as a view.

    Parameters
    ----------
    stored
        Contiguous bytes that end with their checksum.

    Raises
    ------
    ValueError
        The checksum is another one, or there are no bytes before it.
    """
    whole = np.frombuffer(stored, np.uint8)
    if whole.size <= FLETCHER32_BYTES:
        raise ValueError(
            f"expected bytes and a checksum of {FLETCHER32_BYTES} bytes, got {whole.size}"
        )
    data = whole[:-FLETCHER32_BYTES]
    told, found = chunk_checksum(whole), _sum(data)
    if found != told:
        raise ValueError(f"expected the Fletcher-32 checksum {told:#010x}, got {found:#010x}")
    return data


def chunk_checksum(stored: Any) -> int:
    """The checksum that a chunk with Fletcher-32 brings; it is not computed, but read."""
    return int.from_bytes(memoryview(stored)[-FLETCHER32_BYTES:], "little")
