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

import threading
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import zstandard

__all__ = ["LEAN_LEVELS", "SMALL_BYTES", "Way", "compress", "compress_lean", "compress_together"]


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
#: Up to this size zstd has other parameters for its levels; level 3 is as small as 5 for scalars.
SMALL_BYTES: Final = 16 * 1024
_SMALL_LEVEL: Final = 3


class _Compressors(threading.local):
    """Of each thread: one per set of parameters; a new one costs 25 us."""

    def __init__(self) -> None:
        self.own: dict[int, zstandard.ZstdCompressor] = {}
        self.lean: dict[int, zstandard.ZstdCompressor] = {}


_compressors = _Compressors()


def compress(data: Any, level: int) -> bytes:
    """One frame, with the parameters that Zstandard has for the level.

    Parameters
    ----------
    data
        Contiguous bytes.
    level
        1 to 22.
    """
    return _own_compressor(level).compress(data)


def _own_compressor(level: int) -> zstandard.ZstdCompressor:
    found = _compressors.own.get(level)
    if found is None:
        found = _compressors.own[level] = zstandard.ZstdCompressor(level=level)
    return found


def compress_together(pieces: Sequence[Any], way: Way) -> list[Any]:
    """A frame of each of several pieces, as `compress` or `compress_lean` makes them, in one call.

    A small piece takes 20 us. In calls of their own, each would wait for the interpreter's lock
    twice.

    Parameters
    ----------
    pieces
        Contiguous bytes.
    way
        How; for all of them.

    Returns
    -------
    list
        Objects with the buffer interface.
    """
    if way.is_lean and not way.is_small:
        compressor = _lean_compressor(way.level)
    else:
        compressor = _own_compressor(min(way.level, _SMALL_LEVEL) if way.is_lean else way.level)
    frames = compressor.multi_compress_to_buffer(list(pieces))
    return [frames[number] for number in range(len(frames))]


def compress_lean(data: Any, level: int) -> bytes:
    """One frame, about as small as the level's, in less time.

    Parameters
    ----------
    data
        Contiguous bytes.
    level
        One of `LEAN_LEVELS`.
    """
    if len(data) <= SMALL_BYTES:
        return compress(data, min(level, _SMALL_LEVEL))
    return _lean_compressor(level).compress(data)


def _lean_compressor(level: int) -> zstandard.ZstdCompressor:
    found = _compressors.lean.get(level)
    if found is None:
        search = LEAN_LEVELS[level]
        parameters = zstandard.ZstdCompressionParameters(
            window_log=20,  # a chunk
            hash_log=search.hash_log,
            chain_log=search.chain_log,
            search_log=1,
            min_match=search.min_match,
            target_length=0,
            strategy=search.strategy,
            write_content_size=True,
        )
        found = _compressors.lean[level] = zstandard.ZstdCompressor(compression_params=parameters)
    return found
