"""One growing dataset: its open handle, its unfinished last chunk, its offset.

Alone here: where the rows of a feature go. Two ways: *deferred* (whole chunks only, each written
once; the rows of the unfinished chunk wait in memory) and *visible* (rows can be read through
HDF5 as soon as the call returns; those of the unfinished chunk stand uncompressed in HDF5's chunk
cache until the chunk is whole). Invariant: `n_events` is the number of rows that were accepted;
no row is in the file that was not.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import StorageError
from .buffers import ChunkBuffers, place_rows, scratch
from .compact_rows import AnyRows, CompactRows, RepeatedRows, as_array
from .encoder import ChunkCodec, EncoderPool
from .hdf5 import identity, storage_errors

if TYPE_CHECKING:
    from .write_behind import MakeChunk, WriteBehind

__all__ = ["GrowingDataset", "ScalarSummary"]

AnyArray = npt.NDArray[Any]
RowsT = TypeVar("RowsT", AnyArray, AnyRows)


@dataclass(slots=True)
class ScalarSummary:
    """Smallest, largest and mean value so far; not-a-number is left out."""

    minimum: Any = None
    maximum: Any = None
    total: float = 0.0
    count: int = 0

    def add(self, values: AnyArray) -> None:
        """Count the values in."""
        valid = values[~np.isnan(values)] if values.dtype.kind == "f" else values
        if not valid.size:
            return
        low, high = valid.min(), valid.max()
        self.minimum = low if self.minimum is None else min(low, self.minimum)
        self.maximum = high if self.maximum is None else max(high, self.maximum)
        self.total += float(valid.sum(dtype=np.float64))
        self.count += valid.size

    def attributes(self, dtype: np.dtype[Any]) -> dict[str, Any]:
        """Attributes min, max, mean as dclab writes them (numpy's nanmin, nanmax, nanmean)."""
        mean_type = dtype.type if dtype.kind == "f" else np.float64
        number = dtype.type
        if not self.count:
            nothing = mean_type(np.nan)
            return {"min": nothing, "max": nothing, "mean": nothing}
        return {
            "min": number(self.minimum),
            "max": number(self.maximum),
            "mean": mean_type(self.total / self.count),
        }


class GrowingDataset:
    """Appends rows to one chunked dataset.

    Parameters
    ----------
    group
        Group in which the dataset is found by name.
    name
        Name in the group.
    dset
        The dataset; None: it is looked up.
    like
        A dataset that was created with the same arguments as this one just now, which saves a
        look at each of them (200 us).
    summarise
        Whether to keep smallest, largest and mean value of a scalar feature while it grows.
    """

    def __init__(
        self,
        group: h5py.Group,
        name: str,
        *,
        dset: h5py.Dataset | None = None,
        like: GrowingDataset | None = None,
        summarise: bool = False,
    ) -> None:
        self.group = group
        self.name = name
        self.path: str
        self.dtype: np.dtype[Any]
        self.item_shape: tuple[int, ...]
        self.chunk_events: int
        self.n_events: int
        self.codec: ChunkCodec | None
        self.dset: h5py.Dataset = group[name] if dset is None else dset
        if like is None:
            self._look_at(self.dset)
        else:
            self.dtype = like.dtype
            self.item_shape = like.item_shape
            self.n_events = 0
            self.codec = None if like.codec is None else like.codec.anew()
            self.chunk_events = like.chunk_events
            self.path = like.path
        #: number of rows that were there before this object added any
        self.start_events = self.n_events
        #: rows that are in the file
        self._settled = self.n_events
        #: length of the dataset; asking HDF5 for it before each chunk takes 10 us
        self._length = self.n_events
        info = h5py.h5o.get_info(self.dset.id)
        self._identity = (info.fileno, info.addr)
        self._doing = f"writing '{group.name}/{name}'"
        self._zeros = (0,) * len(self.item_shape)
        self._tail: AnyArray | None = None
        #: the value of the last chunk that had only one, and that chunk's bytes by level
        self._repeated: tuple[AnyArray, dict[int | None, bytes | memoryview]] | None = None
        known = summarise and not self.item_shape and not self.n_events
        self._summary = ScalarSummary() if known else None  # None: from the file, on demand

    def _look_at(self, dset: h5py.Dataset) -> None:
        self.dtype = dset.dtype
        shape, chunks = dset.shape, dset.chunks
        self.item_shape = shape[1:]
        self.n_events = int(shape[0])
        whole_items = chunks is not None and chunks[1:] == self.item_shape
        self.codec = ChunkCodec.for_dataset(dset) if whole_items else None
        self.chunk_events = int(chunks[0]) if chunks else 1
        self.path = dset.file.filename

    def is_current(self) -> bool:
        """Whether the name still refers to this dataset, and nobody else changed its length."""
        if not self.dset.id.valid or identity(self.group, self.name) != self._identity:
            return False
        return self._settled != self.n_events or bool(self.dset.id.shape[0] == self.n_events)

    def reopened(self, group: h5py.Group) -> GrowingDataset:
        """The same dataset in a file that was closed and opened again; all rows are in it."""
        again = GrowingDataset(group, self.name)
        again.start_events = self.start_events
        again._summary = self._summary
        return again

    # -- deferred ---------------------------------------------------------------------------

    def append_deferred(self, data: AnyRows, behind: WriteBehind, *, borrow: bool) -> None:
        """Append rows; whole chunks are encoded and written later.

        Parameters
        ----------
        data
            Shape (n, *item_shape), in the dataset's dtype (or bool where that is uint8: a mask), n
            > 0, C-contiguous; or what stands for it, where there is a codec.
        behind
            Takes the whole chunks.
        borrow
            Whether the array may be kept instead of copied.
        """
        if self.codec is None:
            self._append_through_hdf5(as_array(data))
        else:
            before = self.n_events
            tail = self._load_tail(behind.buffers)
            blocks, rest = self._split(data, tail)
            if blocks:
                self._tail = None  # the buffer now belongs to the encoder
            self.n_events = before + len(data)
            if len(rest):
                end = self.n_events % self.chunk_events
                place_rows(self._buffer(behind.buffers)[end - len(rest) : end], rest)
            start = before - before % self.chunk_events
            for number, block in enumerate(blocks):
                rows, is_ours = block, block is tail
                if not (borrow or is_ours):
                    rows, is_ours = self._new_buffer(behind.buffers), True
                    place_rows(rows, block)
                first = start + number * self.chunk_events
                behind.submit(self, first, rows, give_back=is_ours)
        if self._summary is not None:
            self._summary.add(as_array(data))

    def append_chunk(self, make: MakeChunk, behind: WriteBehind, *, encodes: bool) -> None:
        """Append the rows of one whole chunk whose bytes are made by the caller.

        Parameters
        ----------
        make
            Makes the bytes as they stand in the file; `n_events` has to be a multiple of
            `chunk_events`.
        behind
            Takes the chunk.
        encodes
            Whether `make` compresses.
        """
        start = self.n_events
        if self.codec is None or start % self.chunk_events:
            raise AssertionError(
                "only whole chunks follow whole chunks, in a dataset with a codec"
            )
        self._summary = None  # nobody has seen the values
        self.n_events = start + self.chunk_events
        behind.submit_made(self, start, make, self.chunk_bytes, encodes=encodes)

    def reveal(self) -> None:
        """Make waiting rows visible through HDF5; the chunks that are on their way are written."""
        n_tail = self.n_events % self.chunk_events
        if self.codec is None or self._settled == self.n_events:
            return
        with storage_errors(self.path, self._doing):
            self._extend(self.n_events)
            if n_tail:
                self._write_rows(self.n_events - n_tail, self._buffer()[:n_tail])
        self._settled = self.n_events
        self._tail = None

    @property
    def brings_checksum(self) -> bool:
        """Whether the journal takes the checksums that chunks have; see `ChunkCodec`."""
        return self.codec is not None and self.codec.brings_checksum

    @property
    def chunk_bytes(self) -> int:
        """Size of the rows of one chunk in memory."""
        return self.chunk_events * math.prod(self.item_shape) * self.dtype.itemsize

    @property
    def first_unfinished(self) -> int:
        """First row that is in no whole chunk; where HDF5 makes the chunks: the first of all."""
        if self.codec is None:
            return self.start_events
        return self.n_events - self.n_events % self.chunk_events

    def tail_rows(self, start: int) -> AnyArray:
        """Rows from `start` on that are in no whole chunk (a copy)."""
        if self.codec is None:
            rows: AnyArray = self.dset[start : self.n_events]
            return rows
        first = self.first_unfinished
        if self._tail is None or start >= self.n_events:
            return np.empty((0, *self.item_shape), dtype=self.dtype)
        return self._tail[start - first : self.n_events - first].copy()

    # -- visible ----------------------------------------------------------------------------

    def append_visible(self, data: AnyArray, pool: EncoderPool) -> None:
        """Append rows; they are in the file when the call returns.

        Parameters
        ----------
        data
            Shape (n, *item_shape), in the dataset's dtype, n > 0, C-contiguous.
        pool
            Threads that encode.

        Raises
        ------
        StorageError
            The disk refused; the length is what it was before.
        """
        self._summary = None  # visible rows may be changed through HDF5
        codec = self.codec
        if codec is None:
            self._append_through_hdf5(data)
            return
        before = self.n_events
        after = before + len(data)
        tail = None
        if before % self.chunk_events + len(data) >= self.chunk_events:
            tail = self._load_tail()
        blocks, rest = self._split(data, tail)
        futures = [pool.submit(codec.encode, block) for block in blocks]
        start = before - before % self.chunk_events
        try:
            with storage_errors(self.path, self._doing):
                self._extend(after)
                for number, future in enumerate(futures):
                    self.write_chunk(start + number * self.chunk_events, future.result())
                if len(rest):
                    self._write_rows(after - len(rest), rest)
        except BaseException:
            for future in futures:
                future.cancel()
            self._shrink_quietly(before)
            raise
        finally:
            self._tail = None  # HDF5 has the rows; they may be changed there
        self.n_events = self._settled = after

    # -- both -------------------------------------------------------------------------------

    def write_chunk(
        self, start: int, stored: bytes | memoryview, *, runs_ahead: bool = False
    ) -> None:
        """Write one encoded chunk that begins at row `start`.

        Parameters
        ----------
        start, stored
            First row and bytes.
        runs_ahead
            Whether the length in the file may count whole chunks that are not written yet: to set
            it takes as long as to write a small chunk.

        Raises
        ------
        StorageError
            The disk refused. A chunk must not be written after that: HDF5 1.14.4 and 2.0.0 report
            success when a failed write is tried again, and do not index the chunk.
        """
        offset = (start, *self._zeros)
        length = self._length
        with storage_errors(self.path, self._doing):
            try:
                # where an unfinished chunk is replaced no row more before it is written: if the
                # disk refuses, HDF5 cannot take the rows back again
                stop = max(length, min(start + self.chunk_events, self.n_events))
                replaces = length > start
                if length < stop and not replaces:
                    whole = self.n_events - self.n_events % self.chunk_events
                    self._extend(max(stop, whole) if runs_ahead else stop)
                self.dset.id.write_direct_chunk(offset, stored)
                if start < self.start_events:
                    # the chunk with rows from before has moved, and HDF5 uses its old place again:
                    # until then, and before the file says that there are more rows, what is on
                    # the disk has to point to the new one
                    self.dset.file.flush()
                if length < stop and replaces:
                    self._extend(stop)
            except BaseException:
                self._shrink_quietly(length)  # no rows without data
                raise

    def place_of(self, start: int) -> tuple[int, int]:
        """Offset in the file and size of the bytes of a chunk that was written.

        Raises
        ------
        StorageError
            It is not in HDF5's index.
        """
        with storage_errors(self.path, self._doing):
            info = self.dset.id.get_chunk_info_by_coord((start, *self._zeros))
            if info.byte_offset is None:
                raise OSError(f"the chunk at row {start} did not enter the index")
        return info.byte_offset, info.size

    def require_indexed(self) -> None:
        """Refuse a dataset that does not find all chunks that were written to it.

        Raises
        ------
        StorageError
            Chunks are not in HDF5's index.
        """
        if self.codec is None:
            return
        size = self.chunk_events
        first = -(-self.start_events // size)
        expected = max(0, -(-self.n_events // size) - first)
        with storage_errors(self.path, self._doing):
            if first:
                starts: list[int] = []
                self.dset.id.chunk_iter(lambda info: starts.append(info.chunk_offset[0]))
                found = sum(start >= first * size for start in starts)
            else:
                found = self.dset.id.get_num_chunks()
            if found != expected:
                raise OSError(f"expected {expected} chunks in the index, got {found}")

    def padded_tail(self) -> AnyArray | None:
        """Rows of the unfinished chunk, padded, to be encoded for `settle`; None: no rows."""
        n_tail = self.n_events % self.chunk_events
        if self.codec is None or self._settled == self.n_events or not n_tail:
            return None
        tail = self._buffer()
        tail[n_tail:] = 0
        return tail

    def settle(self, tail: bytes | memoryview | None) -> None:
        """Write the rows of the unfinished chunk, and set the length.

        Parameters
        ----------
        tail
            What `padded_tail` gave, encoded.
        """
        if self.codec is None or self._settled == self.n_events:
            return
        with storage_errors(self.path, self._doing):
            if tail is not None:
                self.write_chunk(self.n_events - self.n_events % self.chunk_events, tail)
            if self.dset.id.shape[0] != self.n_events:
                self._extend(self.n_events)
        self._settled = self.n_events
        self._tail = None

    def truncate(self, n_events: int) -> None:
        """Give back all rows from `n_events` on; chunks on their way have to be written before."""
        if n_events >= self.n_events:
            return
        first = self.n_events - self.n_events % self.chunk_events
        with storage_errors(self.path, f"shortening '{self.dset.name}'"):
            if self._settled == self.n_events or n_events <= first or self._tail is None:
                if self.dset.id.shape[0] > n_events:
                    self._extend(n_events)
                self._settled = n_events
                self._tail = None
        self.n_events = n_events
        if self._settled == n_events:
            self._tail = None  # the file has the rows; they may be changed there
        self._summary = None

    def scalar_attributes(self) -> dict[str, Any]:
        """Attributes min, max and mean over all rows of a scalar feature."""
        summary = self._summary
        if summary is None:
            summary = ScalarSummary()
            summary.add(self.dset[: self.n_events])
        return summary.attributes(self.dtype)

    def _append_through_hdf5(self, data: AnyArray) -> None:
        """Append rows where HDF5 has to run the filters itself."""
        before = self.n_events
        try:
            with storage_errors(self.path, self._doing):
                self._extend(before + len(data))
                self._write_rows(before, data)
        except StorageError:
            self._shrink_quietly(before)
            raise
        self.n_events = self._settled = before + len(data)

    def _split(self, data: RowsT, tail: AnyArray | None) -> tuple[list[RowsT | AnyArray], RowsT]:
        """Whole chunks (the first completed by the tail's rows), and the rows that remain."""
        size = self.chunk_events
        n_tail = self.n_events % size
        missing = size - n_tail
        blocks: list[RowsT | AnyArray] = []
        if n_tail:
            if len(data) < missing or tail is None:
                return [], data
            place_rows(tail[n_tail:], data[:missing])
            blocks.append(tail)
            data = data[missing:]
        n_whole = len(data) // size
        blocks += [data[ii * size : (ii + 1) * size] for ii in range(n_whole)]
        return blocks, data[n_whole * size :]

    def _load_tail(self, buffers: ChunkBuffers | None = None) -> AnyArray | None:
        """The buffer of the unfinished chunk; its rows are read where only the file has them."""
        n_tail = self.n_events % self.chunk_events
        if self._tail is None and n_tail:
            self._buffer(buffers)[:n_tail] = self.dset[self.n_events - n_tail : self.n_events]
        return self._tail

    def _buffer(self, buffers: ChunkBuffers | None = None) -> AnyArray:
        if self._tail is None:
            self._tail = self._new_buffer(buffers)
        return self._tail

    def _new_buffer(self, buffers: ChunkBuffers | None) -> AnyArray:
        # not zeros: numpy gives up the GIL for them, and waits for the encoders to get it back
        shape = (self.chunk_events, *self.item_shape)
        return np.empty(shape, self.dtype) if buffers is None else buffers.take(shape, self.dtype)

    def encode(self, rows: AnyRows, level: int | None = None) -> bytes | memoryview:
        """Bytes of a chunk as they stand in the file; for the threads of the pool.

        Parameters
        ----------
        rows
            All rows of the chunk, in the dataset's dtype (or bool where that is uint8: a mask), or
            what stands for them.
        level
            Another Zstandard level than that of the dataset.
        """
        if self.codec is None:
            raise AssertionError("only datasets with a codec have chunks to encode")
        value = rows.only_value() if isinstance(rows, RepeatedRows) else None
        if value is None:
            return self._encode(self.codec, rows, level)
        repeated = self._repeated
        if repeated is None or repeated[0] is not value:
            # other threads may do the same now, each for the value that it has
            repeated = self._repeated = (value, {})
        stored = repeated[1].get(level)
        if stored is None:
            stored = repeated[1][level] = self._encode(self.codec, rows, level)
        return stored

    def _encode(self, codec: ChunkCodec, rows: AnyRows, level: int | None) -> bytes | memoryview:
        if isinstance(rows, CompactRows) or rows.dtype != self.dtype:
            # what is stored as it is has to stay as it is until it is written
            memory = np.empty if codec.is_bare else scratch
            stored = memory(rows.shape, self.dtype)
            place_rows(stored, rows)
            rows = stored
        return codec.encode(rows, level)

    def _extend(self, n_events: int) -> None:
        self.dset.id.set_extent((n_events, *self.item_shape))
        self._length = n_events

    def _write_rows(self, start: int, data: AnyArray) -> None:
        memory = h5py.h5s.create_simple(data.shape)
        space = self.dset.id.get_space()
        space.select_hyperslab((start, *self._zeros), data.shape)
        self.dset.id.write(memory, space, np.ascontiguousarray(data))

    def _shrink_quietly(self, n_events: int) -> None:
        """Back to the old length; the first error matters more than one of the clean-up."""
        with suppress(OSError, RuntimeError):
            if self.dset.id.shape[0] > n_events:
                self._extend(n_events)
