"""Zstandard: compressors that are kept, and parameters that give a level's size in less time.

Alone here: the parameters. Invariant: a frame holds the size of its content (without it hdf5plugin
4 returns garbage and hdf5plugin 7 refuses); every reader of Zstandard opens it.

Levels are made for text and programs, where long matches pay. Camera noise has none: what makes
level 5 smaller than level 1 there are matches of 4 bytes, which the fast search finds as well if
it is told to look for them. Without those, at level 1, what counts are the parts that share a
table of symbols: Zstandard cuts a frame where its content changes, but not in its fastest search.
`compress_lean` knows both (docs/decisions/0011-lean-parameters.md).
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from .zstd_library import LibraryCompressor, Parameter, RoomyFrame, find_library

__all__ = [
    "LEAN_LEVELS",
    "SMALL_BYTES",
    "Frame",
    "Way",
    "compress",
    "compress_lean",
    "compress_together",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
#: One frame.
Frame: TypeAlias = bytes | zstandard.BufferSegment | RoomyFrame


class Way(NamedTuple):
    """How pieces are compressed that can be compressed together.

    Attributes
    ----------
    level
        Zstandard level.
    is_lean
        Whether with lean parameters.
    is_small
        Whether the pieces have at most `SMALL_BYTES`.
    """

    level: int
    is_lean: bool
    is_small: bool


class Search(NamedTuple):
    """Parameters of one search for matches.

    Attributes
    ----------
    strategy
        Number of the search.
    min_match
        Bytes of the shortest match that is looked for.
    hash_log, chain_log
        Size of its tables, log2 of the entries; the fast search has the first only.
    """

    strategy: int
    min_match: int
    hash_log: int
    chain_log: int = 16


#: Levels that have lean parameters. The images of a recording are about as small as with the
#: level's own.
LEAN_LEVELS: Final = {
    5: Search(zstandard.STRATEGY_FAST, min_match=4, hash_log=18),
    4: Search(zstandard.STRATEGY_FAST, min_match=4, hash_log=16),
    3: Search(zstandard.STRATEGY_FAST, min_match=4, hash_log=14),
    2: Search(zstandard.STRATEGY_FAST, min_match=4, hash_log=12),
    1: Search(zstandard.STRATEGY_DFAST, min_match=7, hash_log=12, chain_log=10),
}
#: The same for level 1, as small in less time, where Zstandard's own functions can be called: what
#: counts is where the frame is cut, and the fast search cuts it as well if it is told to.
CUTTING_SEARCH: Final = {
    Parameter.STRATEGY: zstandard.STRATEGY_FAST,
    Parameter.MIN_MATCH: 7,
    Parameter.HASH_LOG: 10,
    Parameter.TARGET_LENGTH: 16,
    Parameter.LITERALS: 1,
    Parameter.BLOCK_SPLITTER: 3,
}
_CUTTING_LEVEL: Final = 1
#: Log2 of the size of a chunk.
_WINDOW_LOG: Final = 20
#: Up to this size zstd has other parameters for its levels; level 3 is as small as 5 for scalars.
SMALL_BYTES: Final = 16 * 1024
_SMALL_LEVEL: Final = 3


class _Compressors(threading.local):
    """Of each thread: one per way; a new one costs 25 us."""

    def __init__(self) -> None:
        self.by_way: dict[Way, LibraryCompressor | zstandard.ZstdCompressor] = {}


_compressors = _Compressors()


def compress(data: Bytes, level: int) -> Frame:
    """One frame, with the parameters that Zstandard has for the level.

    Parameters
    ----------
    data
        C-contiguous.
    level
        1 to 22.
    """
    return _one(data, Way(level, is_lean=False, is_small=len(data) <= SMALL_BYTES))


def compress_lean(data: Bytes, level: int) -> Frame:
    """One frame, about as small as the level's, in less time.

    Parameters
    ----------
    data
        C-contiguous.
    level
        One of `LEAN_LEVELS`.
    """
    return _one(data, Way(level, is_lean=True, is_small=len(data) <= SMALL_BYTES))


def _one(data: Bytes, way: Way) -> Frame:
    compressor = _compressor(way)
    if isinstance(compressor, LibraryCompressor):
        return compressor.compress(data)
    return compressor.compress(data.data)


def compress_together(pieces: Sequence[Bytes], way: Way) -> list[Frame]:
    """A frame of each of several pieces, as `compress` or `compress_lean` makes them.

    Small ones are compressed in one call: a small piece takes 20 us, and in calls of their own
    each would wait for the interpreter's lock twice.

    Parameters
    ----------
    pieces
        C-contiguous.
    way
        How; for all of them.
    """
    compressor = _compressor(way)
    if isinstance(compressor, LibraryCompressor):
        return [compressor.compress(piece) for piece in pieces]
    frames = compressor.multi_compress_to_buffer([piece.data for piece in pieces])
    return [frames[number] for number in range(len(frames))]


def _compressor(way: Way) -> LibraryCompressor | zstandard.ZstdCompressor:
    found = _compressors.by_way.get(way)
    if found is None:
        found = _compressors.by_way[way] = _new_compressor(way)
    return found


def _new_compressor(way: Way) -> LibraryCompressor | zstandard.ZstdCompressor:
    if way.is_small:
        level = min(way.level, _SMALL_LEVEL) if way.is_lean else way.level
        return zstandard.ZstdCompressor(level=level)
    library = _library()
    if not way.is_lean:
        if library is not None:
            return LibraryCompressor(library, {Parameter.LEVEL: way.level})
        return zstandard.ZstdCompressor(level=way.level)
    search = LEAN_LEVELS[way.level]
    if library is None:
        parameters = zstandard.ZstdCompressionParameters(
            window_log=_WINDOW_LOG,
            hash_log=search.hash_log,
            chain_log=search.chain_log,
            search_log=1,
            min_match=search.min_match,
            target_length=0,
            strategy=search.strategy,
            write_content_size=True,
        )
        return zstandard.ZstdCompressor(compression_params=parameters)
    if way.level == _CUTTING_LEVEL:
        return LibraryCompressor(library, {Parameter.WINDOW_LOG: _WINDOW_LOG, **CUTTING_SEARCH})
    return LibraryCompressor(
        library,
        {
            Parameter.WINDOW_LOG: _WINDOW_LOG,
            Parameter.HASH_LOG: search.hash_log,
            Parameter.CHAIN_LOG: search.chain_log,
            Parameter.SEARCH_LOG: 1,
            Parameter.MIN_MATCH: search.min_match,
            Parameter.STRATEGY: search.strategy,
        },
    )


@functools.cache
def _library() -> ctypes.CDLL | None:
    return find_library(CUTTING_SEARCH)
