"""One growing dataset: its open handle, its unfinished last chunk, its offset.

Alone here: where the rows of a feature go. Two ways: *deferred* (whole chunks only, each written
once; the rows of the unfinished chunk wait in memory) and *visible* (rows can be read through
HDF5 as soon as the call returns; those of the unfinished chunk stand uncompressed in HDF5's chunk
cache until the chunk is whole). Invariant: `n_events` is the number of rows that were accepted;
no row is in the file that was not.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import StorageError
from .encoder import ChunkCodec, EncoderPool
from .hdf5 import identity, storage_errors

if TYPE_CHECKING:
    from .write_behind import WriteBehind

__all__ = ["GrowingDataset", "ScalarSummary"]

AnyArray = npt.NDArray[Any]


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
    summarise
        Whether to keep smallest, largest and mean value of a scalar feature while it grows.
    """

    def __init__(self, group: h5py.Group, name: str, *, summarise: bool = False) -> None:
        self.group = group
        self.name = name
        dset = group[name]
        self.dset: h5py.Dataset = dset
        self.dtype: np.dtype[Any] = dset.dtype
        self.item_shape: tuple[int, ...] = dset.shape[1:]
        self.n_events = int(dset.shape[0])
        chunks = dset.chunks
        whole_items = chunks is not None and chunks[1:] == self.item_shape
        self.codec = ChunkCodec.for_dataset(dset) if whole_items else None
        self.chunk_events = int(chunks[0]) if chunks else 1
        #: number of rows that were there before this object added any
        self.start_events = self.n_events
        #: rows that are in the file
        self._settled = self.n_events
        self._identity = identity(group, name)
        self._path: str = dset.file.filename
        self._doing = f"writing '{dset.name}'"
        self._zeros = (0,) * len(self.item_shape)
        self._tail: AnyArray | None = None
        known = summarise and not self.item_shape and not self.n_events
        self._summary = ScalarSummary() if known else None  # None: from the file, on demand

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

    def append_deferred(self, data: AnyArray, behind: WriteBehind, *, borrow: bool) -> None:
        """Append rows; whole chunks are encoded and written later.

        Parameters
        ----------
        data
            Shape (n, *item_shape), in the dataset's dtype, n > 0, C-contiguous.
        behind
            Takes the whole chunks.
        borrow
            Whether the array may be kept instead of copied.
        """
        if self.codec is None:
            self._append_through_hdf5(data)
        else:
            before = self.n_events
            blocks, rest = self._split(data, self._load_tail())
            if not borrow:
                blocks = [block.copy() if block.base is not None else block for block in blocks]
            if blocks:
                self._tail = None  # the buffer now belongs to the encoder
            self.n_events = before + len(data)
            if len(rest):
                end = self.n_events % self.chunk_events
                self._buffer()[end - len(rest) : end] = rest
            start = before - before % self.chunk_events
            for number, block in enumerate(blocks):
                behind.submit(self, start + number * self.chunk_events, block)
        if self._summary is not None:
            self._summary.add(data)

    def reveal(self) -> None:
        """Make waiting rows visible through HDF5; the chunks that are on their way are written."""
        n_tail = self.n_events % self.chunk_events
        if self.codec is None or self._settled == self.n_events:
            return
        with storage_errors(self._path, self._doing):
            self._extend(self.n_events)
            if n_tail:
                self._write_rows(self.n_events - n_tail, self._buffer()[:n_tail])
        self._settled = self.n_events
        self._tail = None

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
            with storage_errors(self._path, self._doing):
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

    def write_chunk(self, start: int, stored: bytes | memoryview) -> tuple[int, int]:
        """Write one encoded chunk that begins at row `start`.

        Returns
        -------
        offset, size
            Where its bytes are in the file.

        Raises
        ------
        StorageError
            The disk refused, or HDF5 reports success but did not index the chunk (it does so when
            a failed write is tried again: HDF5 1.14.4 and 2.0.0).
        """
        offset = (start, *self._zeros)
        length = self.dset.id.shape[0]
        with storage_errors(self._path, self._doing):
            try:
                # where an unfinished chunk is replaced no row more before it is written: if the
                # disk refuses, HDF5 cannot take the rows back again
                stop = max(length, min(start + self.chunk_events, self.n_events))
                replaces = length > start
                if length < stop and not replaces:
                    self._extend(stop)
                self.dset.id.write_direct_chunk(offset, stored)
                info = self._require_indexed(offset)
                if length < stop and replaces:
                    self._extend(stop)
            except BaseException:
                self._shrink_quietly(length)  # no rows without data
                raise
        return info.byte_offset, info.size

    def _require_indexed(self, offset: tuple[int, ...]) -> Any:
        info = self.dset.id.get_chunk_info_by_coord(offset)
        if info.byte_offset is None:
            raise OSError(f"the chunk at row {offset[0]} did not enter the index")
        return info

    def encode_tail(self, pool: EncoderPool) -> Future[bytes | memoryview] | None:
        """Encode the rows of the unfinished chunk, padded, for `settle`; None: there are none."""
        n_tail = self.n_events % self.chunk_events
        if self.codec is None or self._settled == self.n_events or not n_tail:
            return None
        tail = self._buffer()
        tail[n_tail:] = 0
        return pool.submit(self.codec.encode, tail)

    def settle(self, tail: Future[bytes | memoryview] | None) -> None:
        """Write the rows of the unfinished chunk, and set the length.

        Parameters
        ----------
        tail
            As `encode_tail` gave it.
        """
        if self.codec is None or self._settled == self.n_events:
            return
        with storage_errors(self._path, self._doing):
            if tail is not None:
                self.write_chunk(self.n_events - self.n_events % self.chunk_events, tail.result())
            if self.dset.id.shape[0] != self.n_events:
                self._extend(self.n_events)
        self._settled = self.n_events
        self._tail = None

    def truncate(self, n_events: int) -> None:
        """Give back all rows from `n_events` on; chunks on their way have to be written before."""
        if n_events >= self.n_events:
            return
        first = self.n_events - self.n_events % self.chunk_events
        with storage_errors(self._path, f"shortening '{self.dset.name}'"):
            if self._settled == self.n_events or n_events <= first or self._tail is None:
                if self.dset.id.shape[0] > n_events:
                    self._extend(n_events)
                self._settled = n_events
                self._tail = None
        self.n_events = n_events
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
            with storage_errors(self._path, self._doing):
                self._extend(before + len(data))
                self._write_rows(before, data)
        except StorageError:
            self._shrink_quietly(before)
            raise
        self.n_events = self._settled = before + len(data)

    def _split(self, data: AnyArray, tail: AnyArray | None) -> tuple[list[AnyArray], AnyArray]:
        """Whole chunks (the first completed by the tail's rows), and the rows that remain."""
        size = self.chunk_events
        n_tail = self.n_events % size
        missing = size - n_tail
        blocks = []
        if n_tail:
            if len(data) < missing or tail is None:
                return [], data
            tail[n_tail:] = data[:missing]
            blocks.append(tail)
            data = data[missing:]
        n_whole = len(data) // size
        blocks += [data[ii * size : (ii + 1) * size] for ii in range(n_whole)]
        return blocks, data[n_whole * size :]

    def _load_tail(self) -> AnyArray | None:
        """The buffer of the unfinished chunk; its rows are read where only the file has them."""
        n_tail = self.n_events % self.chunk_events
        if self._tail is None and n_tail:
            self._buffer()[:n_tail] = self.dset[self.n_events - n_tail : self.n_events]
        return self._tail

    def _buffer(self) -> AnyArray:
        if self._tail is None:
            # not zeros: numpy gives up the GIL for them, and waits for the encoders to get it back
            self._tail = np.empty((self.chunk_events, *self.item_shape), dtype=self.dtype)
        return self._tail

    def _extend(self, n_events: int) -> None:
        self.dset.id.set_extent((n_events, *self.item_shape))

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
