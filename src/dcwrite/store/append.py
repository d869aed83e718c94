"""One growing dataset: its open handle, its unfinished last chunk, its offset.

Alone here: where the rows of a feature go. Two ways: *visible* (rows can be read through HDF5 as
soon as the call returns; the rows of the unfinished chunk stand uncompressed in HDF5's chunk cache
until the chunk is whole) and *write-behind* (whole chunks only, each written once, the rest waits
in memory). Invariant: `n_events` is the number of rows that were accepted; after an error the
dataset has the length that it had before the call.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import StorageError
from .encoder import ChunkCodec, EncoderPool
from .hdf5 import identity, storage_errors

__all__ = ["GrowingDataset", "ScalarSummary", "WriteBehind"]

AnyArray = npt.NDArray[Any]

#: Bytes of chunks that may wait for the encoder or the disk.
IN_FLIGHT_BYTES: Final = 64 * 1024**2


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


@dataclass(slots=True)
class WriteBehind:
    """Chunks on their way through the encoder to the disk, written in the order they came."""

    pool: EncoderPool
    max_bytes: int = IN_FLIGHT_BYTES
    in_flight_bytes: int = 0
    _waiting: deque[tuple[GrowingDataset, int, int, Future[Any]]] = field(default_factory=deque)

    def submit(self, dataset: GrowingDataset, start: int, block: AnyArray) -> None:
        """Encode a whole chunk and write it later; may first write older ones."""
        codec = dataset.codec
        if codec is None:
            raise AssertionError("a dataset without codec has no whole chunks to encode")
        self._waiting.append((dataset, start, block.nbytes, self.pool.submit(codec.encode, block)))
        self.in_flight_bytes += block.nbytes
        while self._waiting and (
            self.in_flight_bytes > self.max_bytes or self._waiting[0][3].done()
        ):
            self._write_oldest()

    def drain(self) -> None:
        """Write all that waits."""
        while self._waiting:
            self._write_oldest()

    def discard(self) -> None:
        """Drop what waits, after an error of the disk."""
        while self._waiting:
            _, _, nbytes, future = self._waiting.popleft()
            future.cancel()
            self.in_flight_bytes -= nbytes

    def _write_oldest(self) -> None:
        dataset, start, nbytes, future = self._waiting.popleft()
        self.in_flight_bytes -= nbytes
        dataset.write_chunk(start, future.result())


class GrowingDataset:
    """Appends rows to one chunked dataset.

    Parameters
    ----------
    group
        Group in which the dataset is found by name.
    name
        Name in the group.
    pool
        Threads for encoding.
    write_behind
        Queue of chunks; None: rows are visible at once.
    summarise
        Whether to keep smallest, largest and mean value of a scalar feature while it grows.
    """

    def __init__(
        self,
        group: h5py.Group,
        name: str,
        pool: EncoderPool,
        write_behind: WriteBehind | None = None,
        *,
        summarise: bool = False,
    ) -> None:
        self.group = group
        self.name = name
        self._pool = pool
        self._write_behind = write_behind
        self._summarise = summarise
        self._load()

    def _load(self) -> None:
        """Take the state of the dataset from the file."""
        dset = self.group[self.name]
        self.dset: h5py.Dataset = dset
        self.dtype: np.dtype[Any] = dset.dtype
        self.item_shape: tuple[int, ...] = dset.shape[1:]
        self.n_events: int = dset.shape[0]
        self.codec = ChunkCodec.for_dataset(dset)
        chunks = dset.chunks
        if chunks is None or chunks[1:] != self.item_shape:
            self.codec = None
        self.chunk_events: int = chunks[0] if chunks else 1
        self._identity = identity(self.group, self.name)
        self._where = f"{dset.file.filename}:{dset.name}"
        self._zeros = (0,) * len(self.item_shape)
        self._tail: AnyArray | None = None
        #: number of rows that were there before this object added any
        self.start_events = self.n_events
        #: rows that this object knows to be on disk as whole chunks or as a written tail
        self._settled = self.n_events
        known = self._summarise and not self.item_shape and not self.n_events
        self._summary = ScalarSummary() if known else None  # None: from the file, on demand

    @property
    def is_current(self) -> bool:
        """Whether the name still refers to this dataset, and nobody else changed its length."""
        if not self.dset.id.valid or identity(self.group, self.name) != self._identity:
            return False
        return self._write_behind is not None or self.dset.id.shape[0] == self.n_events

    def append(self, data: AnyArray) -> None:
        """Append rows.

        Parameters
        ----------
        data
            Shape (n, *item_shape), in the dataset's dtype.

        Raises
        ------
        StorageError
            The disk refused; the length is what it was before.
        """
        if len(data) == 0:
            return
        data = np.ascontiguousarray(data)
        if self.codec is None:
            self._append_through_hdf5(data)
        elif self._write_behind is not None:
            self._append_behind(data, self._write_behind)
        else:
            self._append_visible(data)
        if self._summary is not None:
            self._summary.add(data)

    def _append_through_hdf5(self, data: AnyArray) -> None:
        before = self.n_events
        try:
            with storage_errors(self.dset.file.filename, f"writing '{self.dset.name}'"):
                self._extend(before + len(data))
                self._write_rows(before, data)
        except StorageError:
            self._shrink_quietly(before)
            raise
        self.n_events = self._settled = before + len(data)

    def _split(self, data: AnyArray) -> tuple[list[AnyArray], AnyArray]:
        """Whole chunks (the first completed by the tail's rows), and the rows that remain."""
        n_tail = self.n_events % self.chunk_events
        missing = self.chunk_events - n_tail
        if n_tail and len(data) < missing:
            self._require_tail()
            return [], data
        blocks = []
        if n_tail:
            tail = self._require_tail()
            tail[n_tail:] = data[:missing]
            blocks.append(tail)
            self._tail = None  # the buffer now belongs to the encoder
            data = data[missing:]
        n_whole = len(data) // self.chunk_events
        size = self.chunk_events
        blocks += [data[ii * size : (ii + 1) * size] for ii in range(n_whole)]
        return blocks, data[n_whole * size :]

    def _append_visible(self, data: AnyArray) -> None:
        before = self.n_events
        after = before + len(data)
        blocks, rest = self._split(data)
        codec = self.codec
        if codec is None:
            raise AssertionError("only called with a codec")
        futures = [self._pool.submit(codec.encode, block) for block in blocks]
        start = before - before % self.chunk_events
        try:
            with storage_errors(self.dset.file.filename, f"writing '{self.dset.name}'"):
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
        self.n_events = after
        self._keep_tail(rest)
        self._settled = after - len(rest)

    def _append_behind(self, data: AnyArray, behind: WriteBehind) -> None:
        before = self.n_events
        blocks, rest = self._split(data)
        self.n_events = before + len(data)
        start = before - before % self.chunk_events
        self._keep_tail(rest)
        for number, block in enumerate(blocks):
            behind.submit(self, start + number * self.chunk_events, block)

    def write_chunk(self, start: int, stored: bytes | memoryview) -> None:
        """Write one encoded chunk that begins at row `start`.

        Raises
        ------
        StorageError
            The disk refused, or HDF5 reports success but did not index the chunk (it does so when
            a failed write is tried again: HDF5 1.14.4 and 2.0.0).
        """
        offset = (start, *self._zeros)
        with storage_errors(self.dset.file.filename, f"writing '{self.dset.name}'"):
            if self.dset.id.shape[0] <= start:
                self._extend(start + self.chunk_events)
            self.dset.id.write_direct_chunk(offset, stored)
            if self.dset.id.get_chunk_info_by_coord(offset).byte_offset is None:
                raise OSError(f"the chunk at row {start} did not enter the index")

    def settle(self) -> None:
        """Write the rows of the unfinished chunk as a padded chunk, and set the length.

        In write-behind mode the queue has to be drained before.
        """
        n_tail = self.n_events % self.chunk_events
        if self.codec is None or self._settled == self.n_events:
            return
        with storage_errors(self.dset.file.filename, f"writing '{self.dset.name}'"):
            if n_tail:
                tail = self._require_tail()
                tail[n_tail:] = 0
                self.write_chunk(self.n_events - n_tail, self.codec.encode(tail))
            if self.dset.id.shape[0] != self.n_events:
                self._extend(self.n_events)
        self._settled = self.n_events

    def truncate(self, n_events: int) -> None:
        """Give back all rows from `n_events` on (write-behind: the queue has to be drained)."""
        if n_events >= self.n_events:
            return
        self.settle()
        with storage_errors(self.dset.file.filename, f"shortening '{self.dset.name}'"):
            self._extend(n_events)
        self.n_events = self._settled = n_events
        self._tail = None
        self._summary = None

    def scalar_attributes(self) -> dict[str, Any]:
        """Attributes min, max and mean over all rows of a scalar feature."""
        summary = self._summary
        if summary is None:
            summary = ScalarSummary()
            summary.add(self.dset[: self.n_events])
        return summary.attributes(self.dtype)

    def _require_tail(self) -> AnyArray:
        """The buffer of the unfinished chunk, filled from the file where it was not ours."""
        if self._tail is None:
            self._tail = np.zeros((self.chunk_events, *self.item_shape), dtype=self.dtype)
            n_tail = self.n_events % self.chunk_events
            if n_tail:
                self._tail[:n_tail] = self.dset[self.n_events - n_tail : self.n_events]
        return self._tail

    def _keep_tail(self, rest: AnyArray) -> None:
        """Remember the last rows; `n_events` already counts them."""
        if len(rest):
            end = self.n_events % self.chunk_events
            tail = self._tail
            if tail is None and end == len(rest):
                tail = self._tail = np.zeros(
                    (self.chunk_events, *self.item_shape), dtype=self.dtype
                )
            elif tail is None:
                raise AssertionError("the tail is loaded before rows are added to it")
            tail[end - len(rest) : end] = rest

    def _extend(self, n_events: int) -> None:
        self.dset.id.set_extent((n_events, *self.item_shape))

    def _write_rows(self, start: int, data: AnyArray) -> None:
        memory = h5py.h5s.create_simple(data.shape)
        space = self.dset.id.get_space()
        space.select_hyperslab((start, *self._zeros), data.shape)
        self.dset.id.write(memory, space, data)

    def _shrink_quietly(self, n_events: int) -> None:
        """Back to the old length; the first error matters more than one of the clean-up."""
        with suppress(OSError, RuntimeError):
            self._extend(n_events)
        self._tail = None
