"""Rows of another dataset: whole chunks as stored bytes where they fit, else decoded and appended.

Alone here: which chunk of a source may be moved as it is, and how the rest is read in order, each
chunk once, side by side, in bounded memory. Invariant: what the sink is given is the rows that
were asked for, in that order; when `move` returns, all of them were decoded without an error.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import DamagedFileError
from ..format.compression import FLETCHER32_FILTER, ZSTD_FILTER
from .append import GrowingDataset
from .checksum import with_fletcher32
from .decoder import ChunkDecoder
from .encoder import ChunkCodec, EncoderPool, zstd_content_size
from .hdf5 import refuse_unsafe_sources
from .row_source import StoredChunk, Unit, as_run, source_errors
from .rows import blocks_of_rows, take_rows
from .write_behind import BUNDLE_BYTES, MakeChunk

__all__ = [
    "MoveCounts",
    "RowMover",
    "RowSink",
    "is_as_good",
]

AnyArray = npt.NDArray[Any]

#: Rows that HDF5 reads at a time.
BLOCK_BYTES: Final = 4 * 1024**2
#: Most of it, where the source's chunks would have it read more.
MAX_BLOCK_BYTES: Final = 64 * 1024**2
#: Decoded rows that may be ahead of what is appended, plus one chunk.
AHEAD_BYTES: Final = 32 * 1024**2


class MoveCounts(NamedTuple):
    """What became of the chunks of a source.

    Attributes
    ----------
    n_moved
        Chunks of which the stored bytes were taken over.
    n_recoded
        Chunks (or blocks, where HDF5 read several at once) that were decoded.
    """

    n_moved: int = 0
    n_recoded: int = 0


class RowSink(Protocol):
    """Takes the rows."""

    def put_rows(self, rows: AnyArray) -> None:
        """Append decoded rows; the array belongs to the sink."""

    def put_chunk(self, make: MakeChunk, *, encodes: bool) -> None:
        """Append one whole chunk whose bytes are made on a thread of the pool."""


class RowMover:
    """Moves rows of one source dataset to the end of a growing one.

    Parameters
    ----------
    source
        Dataset of an open file, shape (n, ...).
    dataset
        Where the rows go.
    sink
        Takes them.
    pool
        Threads that decode and encode.
    convert
        Decoded rows to what the dataset stores; None: they are that already.
    recode
        Whether chunks are compressed anew even where they could be moved.
    on_rows
        Told the number of rows that were taken over so far.
    """

    def __init__(
        self,
        source: h5py.Dataset,
        dataset: GrowingDataset,
        sink: RowSink,
        pool: EncoderPool,
        *,
        convert: Callable[[AnyArray], AnyArray] | None = None,
        recode: bool = False,
        on_rows: Callable[[int], None] | None = None,
    ) -> None:
        self._source = source
        self._dataset = dataset
        self._sink = sink
        self._pool = pool
        self._convert = convert
        self._on_rows = on_rows
        self._n_moved = self._n_recoded = self._n_rows = 0
        with source_errors(source):
            plist = source.id.get_create_plist()
            is_far = plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count() > 0
            if is_far:
                refuse_unsafe_sources(source)
            file = source.file
            if file.mode != "r":
                source.flush()  # chunks that are only in the cache have no place in the file yet
            self._path, self._name = os.fsdecode(file.filename), source.name
            self._decoder = None if is_far else ChunkDecoder.for_dataset(source)
            self._has_same_layout = (
                self._decoder is not None
                and dataset.codec is not None
                and convert is None
                and source.chunks == dataset.dset.chunks
                and source.id.get_type() == dataset.dset.id.get_type()
            )
            codec = ChunkCodec.for_dataset(source) if self._has_same_layout else None
        self._may_move = not recode and is_as_good(codec, dataset.codec)
        #: whether the stored bytes get a checksum; else they have one, or need none
        self._adds_checksum = bool(
            self._may_move
            and codec is not None
            and dataset.codec is not None
            and dataset.codec.fletcher32
            and not codec.fletcher32
        )
        self._is_big = self._decoder is not None and self._decoder.nbytes >= BUNDLE_BYTES
        #: rows that are being decoded to be appended, in order
        self._ahead: deque[tuple[Unit, Future[AnyArray]]] = deque()
        #: chunks that are decoded and encoded in one go: whether they could be decoded
        self._unconfirmed: deque[Future[None]] = deque()

    def move(self, rows: slice | npt.NDArray[np.int64]) -> MoveCounts:
        """Append rows to the sink.

        Parameters
        ----------
        rows
            As `rows_of` gave them.

        Raises
        ------
        DamagedFileError, StorageError
            The source cannot be read, or the sink refused.
        EventError
            The sink's dtype cannot hold the values.
        """
        if isinstance(rows, np.ndarray) and np.any(rows[1:] < rows[:-1]):
            self._move_unsorted(rows)
        else:
            self._move_sorted(rows)
        return MoveCounts(self._n_moved, self._n_recoded)

    def _move_sorted(self, rows: slice | npt.NDArray[np.int64]) -> None:
        position = self._dataset.n_events
        try:
            for unit in self._units(rows, position):
                self._move_unit(unit, position)
                position += unit.n_rows
            self._append_decoded(0)
            while self._unconfirmed:
                self._unconfirmed.popleft().result()
        finally:
            for _unit, future in self._ahead:
                future.cancel()

    def _move_unsorted(self, rows: npt.NDArray[np.int64]) -> None:
        codec = None if self._decoder is None else ChunkCodec.for_dataset(self._source)
        for block in blocks_of_rows(self._source, rows, self._dataset.chunk_events):
            with source_errors(self._source):
                taken = take_rows(self._source, block, self._pool, codec)
            self._n_recoded += 1
            self._put(taken)

    def _units(self, rows: slice | npt.NDArray[np.int64], position: int) -> Iterator[Unit]:
        """The rows by chunks, or by blocks where HDF5 had better read several chunks at once."""
        size = self._unit_events(rows, position)
        if isinstance(rows, slice):
            for start in range(rows.start - rows.start % size, rows.stop, size):
                part = slice(max(start, rows.start), min(start + size, rows.stop))
                yield Unit(start, start + size, part)
            return
        edges = np.flatnonzero(np.diff(rows // size)) + 1
        for indices in np.split(rows, edges):
            start = int(indices[0]) // size * size
            yield Unit(start, start + size, as_run(indices))

    def _unit_events(self, rows: slice | npt.NDArray[np.int64], position: int) -> int:
        source = self._source
        chunk_events = int(source.chunks[0]) if source.chunks else 1
        is_aligned = isinstance(rows, slice) and (position - rows.start) % chunk_events == 0
        if self._is_big or (self._may_move and is_aligned):
            return chunk_events
        row_bytes = max(1, math.prod(source.shape[1:]) * source.dtype.itemsize)
        n_events = max(1, BLOCK_BYTES // row_bytes // chunk_events) * chunk_events
        return int(max(1, min(n_events, MAX_BLOCK_BYTES // row_bytes)))

    def _move_unit(self, unit: Unit, position: int) -> None:
        decoder = self._decoder
        if decoder is None:
            self._put(unit.pick(self._read(*unit.bounds), unit.bounds[0]))
            self._n_recoded += 1
            return
        chunks = [self._read_stored(start) for start in unit.chunk_starts(decoder.shape[0])]
        first = chunks[0]
        is_whole = (
            self._has_same_layout
            and unit.is_whole
            and unit.stop - unit.start == decoder.shape[0]
            and position % self._dataset.chunk_events == 0
            and first.stored is not None
        )
        if is_whole and self._may_move and self._is_sound(decoder, first):
            self._append_decoded(0)
            self._put_moved(unit, first)
        elif is_whole and self._is_big:
            self._append_decoded(0)
            self._put_recoded(unit, partial(self._decode, decoder, first))
        else:
            future = self._pool.submit(self._decode_all, decoder, unit, chunks)
            self._ahead.append((unit, future))
            self._append_decoded(max(1, AHEAD_BYTES // unit.n_bytes(decoder)))

    def _read_stored(self, start: int) -> StoredChunk:
        offset = (start,) + (0,) * (len(self._source.shape) - 1)
        try:
            filter_mask, stored = self._source.id.read_direct_chunk(offset)
        except (OSError, RuntimeError, ValueError):
            # never written, or unreadable: HDF5 says which
            size = 1 if self._decoder is None else self._decoder.shape[0]
            return StoredChunk(start, rows=self._read(start, start + size))
        return StoredChunk(start, stored, filter_mask)

    def _read(self, start: int, stop: int) -> AnyArray:
        with source_errors(self._source):
            rows: AnyArray = self._source[start:stop]
        return rows

    @staticmethod
    def _is_sound(decoder: ChunkDecoder, chunk: StoredChunk) -> bool:
        """Whether all readers will make a chunk of the bytes, if they are not damaged."""
        stored = chunk.stored
        if stored is None or chunk.filter_mask:
            return False
        if ZSTD_FILTER in decoder.filters:
            # without its size in the frame, some readers refuse it, others return garbage
            return zstd_content_size(stored) == decoder.nbytes
        checksum_bytes = 4 if FLETCHER32_FILTER in decoder.filters else 0
        return len(stored) == decoder.nbytes + checksum_bytes

    def _put_moved(self, unit: Unit, chunk: StoredChunk) -> None:
        stored = chunk.stored
        if stored is None:
            raise AssertionError("only stored chunks are moved")
        if self._adds_checksum:
            self._sink.put_chunk(lambda _level: with_fletcher32(stored), encodes=False)
        else:
            self._sink.put_chunk(lambda _level: stored, encodes=False)
        self._n_moved += 1
        self._took(unit.n_rows)

    def _put_recoded(self, unit: Unit, decode: Callable[[], AnyArray]) -> None:
        """Decode and encode a chunk in one go; nobody else sees its rows."""
        codec = self._dataset.codec
        if codec is None:
            raise AssertionError("chunks are encoded for datasets with a codec only")
        confirmed: Future[None] = Future()

        def make(level: int | None) -> bytes | memoryview:
            try:
                rows = decode()
            except BaseException as exc:
                confirmed.set_exception(exc)
                raise
            confirmed.set_result(None)
            return codec.encode(rows, level)

        self._unconfirmed.append(confirmed)
        self._sink.put_chunk(make, encodes=True)
        while self._unconfirmed and self._unconfirmed[0].done():
            self._unconfirmed.popleft().result()
        self._n_recoded += 1
        self._took(unit.n_rows)

    def _append_decoded(self, n_left: int) -> None:
        """Append what was decoded, until at most so many units are ahead."""
        while len(self._ahead) > n_left:
            unit, future = self._ahead.popleft()
            self._n_recoded += 1
            self._put(unit.pick(future.result(), unit.start))

    def _put(self, rows: AnyArray) -> None:
        if self._convert is not None:
            rows = self._convert(rows)
        self._sink.put_rows(rows)
        self._took(len(rows))

    def _took(self, n_rows: int) -> None:
        self._n_rows += n_rows
        if self._on_rows is not None:
            self._on_rows(self._n_rows)

    def _decode_all(
        self, decoder: ChunkDecoder, unit: Unit, chunks: list[StoredChunk]
    ) -> AnyArray:
        """Rows of a unit; those of chunks that were not asked for are undefined."""
        if len(chunks) == 1 and chunks[0].start == unit.start:
            return self._decode(decoder, chunks[0])
        rows = np.empty((unit.stop - unit.start, *decoder.shape[1:]), dtype=decoder.dtype)
        for chunk in chunks:
            part = self._decode(decoder, chunk)
            first = chunk.start - unit.start
            rows[first : first + len(part)] = part
        return rows

    def _decode(self, decoder: ChunkDecoder, chunk: StoredChunk) -> AnyArray:
        if chunk.stored is None:
            if chunk.rows is None:
                raise AssertionError("a chunk is stored, or was read")
            return chunk.rows
        try:
            return decoder.decode(chunk.stored, chunk.filter_mask)
        except (RuntimeError, ValueError) as exc:
            raise DamagedFileError(
                f"'{self._path}': the chunk of '{self._name}' at event {chunk.start} is damaged "
                f"({exc}); rescue the rest with `dcwrite recover`"
            ) from exc


def is_as_good(source: ChunkCodec | None, wanted: ChunkCodec | None) -> bool:
    """Whether chunks of one codec may stand among those of another, and are no larger."""
    if source is None or wanted is None or (source.fletcher32 and not wanted.fletcher32):
        return False
    if source.level is None or wanted.level is None:
        return source.level is wanted.level
    return source.level >= wanted.level
