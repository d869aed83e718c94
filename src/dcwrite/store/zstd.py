"""Zstandard: compressors that are kept, and parameters that give a level's size in less time.

Alone here: the parameters. Invariant: a frame holds the size of its content (without it hdf5plugin
4 returns garbage and hdf5plugin 7 refuses); every reader of Zstandard opens it.

Levels are made for text and programs, where long matches pay. Camera noise has none: what makes
level 5 smaller than level 1 there are matches of 4 bytes, which the fast search finds as well if
it is told to look for them (docs/decisions/0011-lean-parameters.md). Most images are as small
without any match, if each few rows have a table of symbols of their own
(docs/decisions/0027-blocks-of-rows.md).
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from .zstd_library import Library, LibraryCompressor, Parameter, RoomyFrame, find_library

__all__ = [
    "LEAN_LEVELS",
    "SMALL_BYTES",
    "Frame",
    "Search",
    "Way",
    "compress",
    "compress_together",
    "lean_ways",
    "own_way",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
#: One frame.
Frame: TypeAlias = bytes | zstandard.BufferSegment | RoomyFrame

#: Log2 of the bytes among which matches are looked for: those of a chunk, as long as one event has
#: no more.
_WINDOW_LOG: Final = 20


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
    skips
        Bytes that are passed over where nothing is found (ZSTD_c_targetLength).
    cuts
        Whether a frame is cut into blocks where its content changes; each block has a table of
        symbols of its own.
    block_bytes
        Size of a block; 0: as Zstandard has it.
    """

    strategy: int
    min_match: int
    hash_log: int
    chain_log: int = 16
    skips: int = 0
    cuts: bool = False
    block_bytes: int = 0

    @property
    def needs_library(self) -> bool:
        """Whether no Python package passes these parameters on."""
        return self.cuts or self.block_bytes > 0

    @property
    def numbers(self) -> dict[int, int]:
        """Numbers of `Parameter` to values."""
        numbers = {
            Parameter.WINDOW_LOG: _WINDOW_LOG,
            Parameter.HASH_LOG: self.hash_log,
            Parameter.CHAIN_LOG: self.chain_log,
            Parameter.SEARCH_LOG: 1,
            Parameter.MIN_MATCH: self.min_match,
            Parameter.TARGET_LENGTH: self.skips,
            Parameter.STRATEGY: self.strategy,
        }
        if self.needs_library:
            # a search that skips much codes no symbols otherwise
            numbers[Parameter.LITERALS] = 1
            numbers[Parameter.BLOCK_SPLITTER] = 3 if self.cuts else 1
        if self.block_bytes:
            numbers[Parameter.BLOCK_BYTES] = self.block_bytes
        return numbers

    def compressor(self, library: Library | None) -> AnyCompressor:
        """One that searches that way.

        Raises
        ------
        ValueError
            `needs_library`, and there is none.
        """
        if library is not None:
            return LibraryCompressor(library, self.numbers)
        if self.needs_library:
            raise ValueError(f"{self}: expected Zstandard's own functions, got none")
        parameters = zstandard.ZstdCompressionParameters(
            window_log=_WINDOW_LOG,
            hash_log=self.hash_log,
            chain_log=self.chain_log,
            search_log=1,
            min_match=self.min_match,
            target_length=self.skips,
            strategy=self.strategy,
            write_content_size=True,
        )
        return zstandard.ZstdCompressor(compression_params=parameters)


AnyCompressor: TypeAlias = LibraryCompressor | zstandard.ZstdCompressor


class Way(NamedTuple):
    """How pieces are compressed that can be compressed together.

    Attributes
    ----------
    level
        Zstandard level; 0: none, but a search.
    search
        In place of a level's own; None: the level itself.
    is_small
        Whether the pieces have at most `SMALL_BYTES`.
    """

    level: int
    search: Search | None = None
    is_small: bool = False


#: Finds next to nothing in noise, and takes next to no time.
_HARDLY = Search(zstandard.STRATEGY_FAST, min_match=7, hash_log=10, skips=16)
#: Searches that make images about as small as a level's own.
_SEARCHES: Final = {
    5: Search(zstandard.STRATEGY_FAST, min_match=4, hash_log=18),
    4: Search(zstandard.STRATEGY_FAST, min_match=4, hash_log=16),
    3: Search(zstandard.STRATEGY_FAST, min_match=4, hash_log=14),
    2: Search(zstandard.STRATEGY_FAST, min_match=4, hash_log=12),
    1: _HARDLY._replace(cuts=True),
}
#: Of level 1, where Zstandard's own functions cannot be called: the two-table search cuts a frame
#: of itself.
_CUTTING_ITSELF: Final = Search(zstandard.STRATEGY_DFAST, min_match=7, hash_log=12, chain_log=10)
#: Sizes of blocks that are tried for images, about. Smaller ones take longer, and make most images
#: smaller.
_BLOCK_BYTES: Final = {
    5: (6000, 3000, 1500), 4: (6000, 3000, 1500), 3: (6000, 3000, 1500), 2: (6000, 3000), 1: (),
}  # fmt: skip
#: The smallest and the largest that Zstandard has (zstd.h: ZSTD_BLOCKSIZE_MAX_MIN and
#: ZSTD_BLOCKSIZE_MAX).
_LEAST_BLOCK_BYTES, _MOST_BLOCK_BYTES = 1024, 128 * 1024
#: Bytes of the pixels of a camera; of wider ones each byte has a table too few.
_WIDEST_PIXEL: Final = 2
#: Log of the factor by which a size may be away from its target for the sake of whole parts.
_FAR: Final = math.log(1.5)
#: Compressors that a thread keeps: as many as a stream uses whose level follows the load. Each has
#: up to 3 MB, and those of blocks are made for one width of images.
KEPT_COMPRESSORS: Final = 20
#: Levels that have lean ways.
LEAN_LEVELS: Final = frozenset(_SEARCHES)
#: Up to this size zstd has other parameters for its levels; level 3 is as small as 5 for scalars.
SMALL_BYTES: Final = 16 * 1024
_SMALL_LEVEL: Final = 3


def own_way(level: int, n_bytes: int) -> Way:
    """The level itself, for pieces of that size."""
    return Way(level, is_small=n_bytes <= SMALL_BYTES)


def lean_ways(level: int, item_shape: tuple[int, ...], itemsize: int, n_bytes: int) -> list[Way]:
    """Ways that may be as small as a level in less time, fastest first; the level itself is last.

    Parameters
    ----------
    level
        Zstandard level, 1 to 22.
    item_shape, itemsize
        Shape of one event, and bytes of one value.
    n_bytes
        Size of a piece, of some events.
    """
    own = own_way(level, n_bytes)
    if level not in LEAN_LEVELS:
        return [own]
    if own.is_small:
        return [own] if level <= _SMALL_LEVEL else [own._replace(level=_SMALL_LEVEL), own]
    searches = [_SEARCHES[level]]
    if len(item_shape) > 1 and itemsize <= _WIDEST_PIXEL:
        sizes = _sizes_of_blocks(item_shape, itemsize, _BLOCK_BYTES[level])
        searches = [_HARDLY._replace(block_bytes=size) for size in sizes] + searches
    if _library() is None:
        searches = [search for search in searches if not search.needs_library]
        searches += [_CUTTING_ITSELF] if level == 1 else []
    return [*(Way(0, search) for search in searches), own]


def _sizes_of_blocks(
    item_shape: tuple[int, ...], itemsize: int, targets: Sequence[int]
) -> list[int]:
    """Sizes near to the targets that hold whole rows of images, if possible whole parts of images.

    Blocks that begin where rows begin are 2 % smaller.
    """
    height = item_shape[0]
    row_bytes = math.prod(item_shape[1:]) * itemsize
    if not height or not row_bytes:
        return []
    n_least = math.ceil(_LEAST_BLOCK_BYTES / row_bytes)
    parts = [n for n in range(1, min(height, _MOST_BLOCK_BYTES) + 1) if height % n == 0]
    sizes = set()
    for target in targets:
        n_exact = target / row_bytes
        if n_exact > height:
            n_rows = height * round(n_exact / height)  # several images
        else:
            n_rows = min(parts, key=functools.partial(_distance, n_exact))
            if _distance(n_exact, n_rows) > _FAR:
                n_rows = round(n_exact)
        sizes.add(max(n_rows, n_least) * row_bytes)
    return sorted((size for size in sizes if size <= _MOST_BLOCK_BYTES), reverse=True)


def _distance(one: float, other: float) -> float:
    """Log of the factor between two numbers."""
    return abs(math.log(one / other))


class _Compressors(threading.local):
    """Of each thread: one per way, the last ones that were used; a new one costs 25 us."""

    def __init__(self) -> None:
        self.by_way: OrderedDict[Way, AnyCompressor] = OrderedDict()


_compressors = _Compressors()


def compress(data: Bytes, way: Way) -> Frame:
    """One frame.

    Parameters
    ----------
    data
        C-contiguous.
    way
        How.
    """
    compressor = _compressor(way)
    if isinstance(compressor, LibraryCompressor):
        return compressor.compress(data)
    return compressor.compress(data.data)


def compress_together(pieces: Sequence[Bytes], way: Way) -> list[Frame]:
    """A frame of each of several pieces, as `compress` makes them.

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


def _compressor(way: Way) -> AnyCompressor:
    by_way = _compressors.by_way
    found = by_way.get(way)
    if found is None:
        found = by_way[way] = _new_compressor(way)
        if len(by_way) > KEPT_COMPRESSORS:
            by_way.popitem(last=False)
    else:
        by_way.move_to_end(way)
    return found


def _new_compressor(way: Way) -> AnyCompressor:
    library = None if way.is_small else _library()
    if way.search is not None:
        return way.search.compressor(library)
    if library is None:
        return zstandard.ZstdCompressor(level=way.level)
    return LibraryCompressor(library, {Parameter.LEVEL: way.level})


@functools.cache
def _library() -> Library | None:
    return find_library(
        search.numbers
        for search in (_SEARCHES[1], _HARDLY._replace(block_bytes=_LEAST_BLOCK_BYTES))
    )
