"""Zstandard's own functions, for parameters that no Python package passes on.

Alone here: in which shared library they are found, and how they are called. Invariant: what they
make is a frame that any reader of Zstandard opens; a library that does not know a parameter, or
does not prove this on a sample, is not used.

python-zstandard's wheels bring Zstandard 1.5.7 a second time, for its other backend, and the
functions of that one can be called. Three parameters stand in the part of zstd.h that packages
leave out: how closely Zstandard looks for places to cut a frame into blocks, each of which has a
table of symbols, how large these are at most, and that it codes symbols also where the search
skips much (docs/decisions/0026-less-to-copy.md, docs/decisions/0027-blocks-of-rows.md).
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from .short_calls import copied, keeping_lock

__all__ = ["ROOM_BYTES", "Library", "LibraryCompressor", "Parameter", "RoomyFrame", "find_library"]

Bytes = npt.NDArray[np.uint8]

#: Bytes behind each frame, for the checksum of HDF5's filter: to copy the frame for it takes as
#: long as to compute it.
ROOM_BYTES: Final = 4
#: The first version that has `Parameter.BLOCK_SPLITTER`.
_LEAST_VERSION: Final = 10507
#: Modules that may be linked to Zstandard with its functions to be called.
_MODULES: Final = ("zstandard._cffi", "numcodecs.zstd")


class Parameter:
    """Numbers of parameters (zstd.h, ZSTD_cParameter)."""

    LEVEL = 100
    WINDOW_LOG, HASH_LOG, CHAIN_LOG, SEARCH_LOG = 101, 102, 103, 104
    MIN_MATCH, TARGET_LENGTH, STRATEGY = 105, 106, 107
    #: ZSTD_c_literalCompressionMode: 1 (ZSTD_ps_enable) codes symbols in any case
    LITERALS = 1002
    #: ZSTD_c_maxBlockSize
    BLOCK_BYTES = 1015
    #: ZSTD_c_blockSplitterLevel: 1 (never cut) to 6 (look closely); 0: as the search has it
    BLOCK_SPLITTER = 1017


class Library:
    """Zstandard's functions in a shared library.

    Parameters
    ----------
    cdll
        The library.

    Raises
    ------
    AttributeError
        It does not have them.
    """

    def __init__(self, cdll: ctypes.CDLL) -> None:
        context, memory, size = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
        self.version_number = keeping_lock(cdll, "ZSTD_versionNumber", ctypes.c_uint)
        self.create_context = keeping_lock(cdll, "ZSTD_createCCtx", context)
        self.free_context = keeping_lock(cdll, "ZSTD_freeCCtx", size, context)
        self.set_parameter = keeping_lock(
            cdll, "ZSTD_CCtx_setParameter", size, context, ctypes.c_int, ctypes.c_int
        )
        self.compress_bound = keeping_lock(cdll, "ZSTD_compressBound", size, size)
        self.is_error = keeping_lock(cdll, "ZSTD_isError", ctypes.c_uint, size)
        #: the only one that takes its time, and gives the interpreter's lock up
        self.compress: Any = cdll.ZSTD_compress2
        self.compress.restype = size
        self.compress.argtypes = [context, memory, size, memory, size]


class RoomyFrame:
    """A frame, and room behind it.

    Parameters
    ----------
    memory
        The frame and `ROOM_BYTES` more, which nobody else has.

    Attributes
    ----------
    memory
        As given.
    """

    __slots__ = ("memory",)

    def __init__(self, memory: Bytes) -> None:
        self.memory = memory

    def __len__(self) -> int:
        """Size of the frame."""
        return len(self.memory) - ROOM_BYTES

    def __bytes__(self) -> bytes:
        """The frame."""
        return self.view.tobytes()

    @property
    def view(self) -> memoryview:
        """The frame."""
        return self.memory.data[: len(self)]


class LibraryCompressor:
    """Compresses for one thread at a time.

    Parameters
    ----------
    library
        As `find_library` gives it.
    parameters
        Numbers of `Parameter` to values.

    Raises
    ------
    ValueError
        The library does not know a parameter, or its value.
    MemoryError
        There is no room.
    """

    def __init__(self, library: Library, parameters: Mapping[int, int]) -> None:
        self._context: Any = None
        self._library = library
        self._context = library.create_context()
        if not self._context:
            raise MemoryError("Zstandard: no room for a context")
        for number, value in parameters.items():
            result = library.set_parameter(self._context, number, value)
            if library.is_error(result):
                raise ValueError(f"Zstandard: parameter {number} cannot be {value}")

    def __del__(self) -> None:
        if self._context:
            self._library.free_context(self._context)
            self._context = None

    def compress(self, data: Bytes) -> RoomyFrame:
        """One frame, which says how long its content is.

        Parameters
        ----------
        data
            C-contiguous bytes.

        Raises
        ------
        ValueError
            They are not contiguous.
        MemoryError
            There is no room.
        """
        if not data.flags.c_contiguous:
            raise ValueError("Zstandard: expected contiguous bytes, got a part of an array")
        library = self._library
        bound = library.compress_bound(data.size)
        memory = np.empty(bound + ROOM_BYTES, np.uint8)
        size = library.compress(
            self._context, memory.ctypes.data, bound, data.ctypes.data, data.size
        )
        if library.is_error(size):
            raise MemoryError(f"Zstandard: {data.size} bytes could not be compressed ({size})")
        memory = memory[: size + ROOM_BYTES]
        # not to hold much more memory than the frame has
        return RoomyFrame(memory if 4 * len(memory) > bound else copied(memory))


def _libraries() -> Iterator[Library]:
    for module in _MODULES:
        with suppress(AttributeError, ImportError, OSError, TypeError, ValueError):
            spec = importlib.util.find_spec(module)
            if spec is not None and spec.origin:
                yield Library(ctypes.CDLL(spec.origin))


def find_library(needed: Iterable[Mapping[int, int]]) -> Library | None:
    """A library that is new enough, knows the parameters, and compresses a sample well.

    Parameters
    ----------
    needed
        Parameters that are used together.

    Returns
    -------
    Library or None
        None: there is none whose functions can be called.
    """
    rng = np.random.default_rng(0)
    sample = np.repeat(rng.integers(0, 60, 50_000, dtype=np.uint8), 4)
    tried = list(needed)
    for library in _libraries():
        if library.version_number() < _LEAST_VERSION:
            continue
        with suppress(MemoryError, RuntimeError, ValueError):
            frames = [LibraryCompressor(library, one).compress(sample) for one in tried]
            if all(
                len(frame) < len(sample) and Zstd().decode(bytes(frame)) == sample.tobytes()
                for frame in frames
            ):
                return library
    return None
