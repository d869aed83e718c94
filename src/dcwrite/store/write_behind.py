"""Write-behind: chunks on their way through the encoder to the disk.

Alone here: how much may be on the way, and in what order it arrives. Invariant: chunks are
written in the order in which they came (those of one dataset, and those before a mark), by the
thread that calls; at most `max_bytes` of raw data wait, plus one chunk.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .append import GrowingDataset
from .buffers import ChunkBuffers
from .checksum import chunk_checksum
from .compact_rows import AnyRows
from .encoder import ChunkCodec, EncoderPool
from .load import LevelPolicy
from .places import ChunkPlaces
from .zstd import Way, compress_together

__all__ = ["BUNDLE_BYTES", "ChunkWatcher", "MakeChunk", "WriteBehind"]

#: Raw bytes of chunks that may wait for the encoder or the disk.
IN_FLIGHT_BYTES: Final = 64 * 1024**2
#: Bytes in the file after which the disk is told to begin.
STORED_BYTES: Final = 8 * 1024**2
#: Smaller chunks go to the encoder together: a task costs some 20 us, a scalar chunk 30 us.
BUNDLE_BYTES: Final = 256 * 1024
#: While the encoder has enough to do, larger ones go together, too, up to that many bytes: each
#: task waits for the interpreter's lock several times.
BUSY_BUNDLE_BYTES: Final = 4 * 1024**2
#: The encoder has enough to do with so many tasks per thread that are not done.
BUSY_TASKS: Final = 2
#: So many tasks are written at most before the next chunk is taken, unless too much waits: while
#: many are written one after the other, the encoder runs out of work.
WRITTEN_AT_ONCE: Final = 2


#: Makes the bytes of a chunk at a Zstandard level; called on a thread of the pool.
MakeChunk = Callable[[int | None], bytes | memoryview]


class _Block(NamedTuple):
    """A chunk: its rows, or who makes its bytes."""

    dataset: GrowingDataset
    start: int
    level: int | None
    make: MakeChunk | None
    rows: AnyRows | None = None
    gives_back: bool = False


class _Task(NamedTuple):
    """Chunks that are encoded together; their rows are free when they are."""

    places: list[tuple[GrowingDataset, int]]
    nbytes: int
    future: Future[list[tuple[bytes | memoryview, int]]]


#: Told of each written chunk: dataset, first row, offset in the file, size, checksum.
ChunkWatcher = Callable[[GrowingDataset, int, int, int, int], None]


class WriteBehind:
    """Encodes chunks on the pool and writes them in order.

    Parameters
    ----------
    pool
        Threads that encode.
    policy
        Chooses the level of each chunk.
    max_bytes
        Raw bytes that may wait.
    on_stored
        Called on a thread of the pool each time that some `STORED_BYTES` more are in the file.
    """

    def __init__(
        self,
        pool: EncoderPool,
        policy: LevelPolicy,
        max_bytes: int = IN_FLIGHT_BYTES,
        *,
        on_stored: Callable[[], None] | None = None,
    ) -> None:
        self._pool = pool
        self._on_stored = on_stored
        self._n_stored = 0
        self.policy = policy
        #: raw bytes that may wait
        self.max_bytes = max_bytes
        #: memory of chunks
        self.buffers = ChunkBuffers()
        self._waiting: deque[_Task | Callable[[], None]] = deque()
        self._bundle: list[_Block] = []
        self._bundle_bytes = 0
        self.in_flight_bytes = 0
        #: told of each chunk that was written
        self.watcher: ChunkWatcher | None = None
        self._places: ChunkPlaces | None = None
        self._runs_ahead = False

    def watch(
        self,
        watcher: ChunkWatcher | None,
        places: ChunkPlaces | None,
        *,
        runs_ahead: bool = False,
    ) -> None:
        """Have each chunk told from now on that is written, with its place.

        Parameters
        ----------
        watcher, places
            Who is told, and who finds the places.
        runs_ahead
            Whether nobody looks at the lengths in the file before its end, so that they may count
            chunks that are still on their way.
        """
        if self._places is not None:
            self._places.close()
        self.watcher, self._places = watcher, places
        self._runs_ahead = runs_ahead

    def submit(
        self,
        dataset: GrowingDataset,
        start: int,
        rows: AnyRows,
        *,
        give_back: bool = False,
    ) -> None:
        """Encode a whole chunk and write it later; may first write older ones.

        Parameters
        ----------
        dataset, start
            Where the chunk goes.
        rows
            Its rows.
        give_back
            Whether the rows are one of `buffers`, which is free as soon as they are encoded (kept
            where the rows themselves are what is stored).

        Raises
        ------
        StorageError
            An older chunk could not be written.
        """
        # bare rows are what is written, and that is later
        gives_back = give_back and dataset.codec is not None and not dataset.codec.is_bare
        level = self._level(dataset, rows.nbytes)
        block = _Block(dataset, start, level, None, rows, gives_back)
        self._add(block, rows.nbytes, alone=False)

    def submit_made(
        self,
        dataset: GrowingDataset,
        start: int,
        make: MakeChunk,
        nbytes: int,
        *,
        encodes: bool = True,
    ) -> None:
        """Have the bytes of a whole chunk made, and write them later; may first write older ones.

        Parameters
        ----------
        dataset, start
            Where the chunk goes.
        make
            Makes its bytes. Whoever submits what can fail (chunks of `BUNDLE_BYTES` or more
            only) has to know that it has not before others submit, or to `withdraw` it.
        nbytes
            Size of the chunk's rows in memory.
        encodes
            Whether it compresses, so that it counts for the choice of the level.

        Raises
        ------
        StorageError
            An older chunk could not be written.
        """
        level = self._level(dataset, nbytes) if encodes else None
        self._add(_Block(dataset, start, level, make), nbytes, alone=nbytes >= BUNDLE_BYTES)

    def _level(self, dataset: GrowingDataset, nbytes: int) -> int | None:
        own_level = None if dataset.codec is None else dataset.codec.level
        return self.policy.choose((self.in_flight_bytes + nbytes) / self.max_bytes, own_level)

    def _add(self, block: _Block, nbytes: int, *, alone: bool) -> None:
        self.in_flight_bytes += nbytes
        if alone:
            self._seal()  # chunks of one dataset stay in their order
            self._start([block], nbytes)
        else:
            self._bundle.append(block)
            self._bundle_bytes += nbytes
            least = BUSY_BUNDLE_BYTES if self._is_busy() else BUNDLE_BYTES
            if self._bundle_bytes >= least:
                self._seal()
        self._write_ready()

    def _is_busy(self) -> bool:
        """Whether the encoder has enough to do: it takes tasks in the order of their start."""
        number = BUSY_TASKS * self._pool.threads
        if len(self._waiting) < number or self.in_flight_bytes > self.max_bytes:
            return False
        task = self._waiting[-number]
        return isinstance(task, _Task) and not task.future.done()

    def withdraw(self, dataset: GrowingDataset, first: int) -> None:
        """Drop chunks of a dataset from row `first` on that stand alone, and so may have failed.

        The caller takes these rows back.
        """
        self._seal()
        kept: deque[_Task | Callable[[], None]] = deque()
        for task in self._waiting:
            if isinstance(task, _Task) and len(task.places) == 1:
                ((owner, start),) = task.places
                if owner is dataset and start >= first:
                    task.future.cancel()
                    self.in_flight_bytes -= task.nbytes
                    continue
            kept.append(task)
        self._waiting = kept

    def then(self, action: Callable[[], None]) -> None:
        """Call `action` when all chunks that were submitted before are written."""
        self._seal()
        self._waiting.append(action)
        self._write_ready()

    def drain(self) -> None:
        """Write all that waits.

        Raises
        ------
        StorageError
            The disk refused; the rest still waits.
        """
        self._seal()
        while self._waiting:
            self._write_oldest()

    def discard(self) -> None:
        """Drop what waits, after an error of the disk."""
        for task in self._waiting:
            if isinstance(task, _Task):
                task.future.cancel()
        self._waiting.clear()
        if self._places is not None:
            self._places.close()
        self._bundle.clear()
        self._bundle_bytes = self.in_flight_bytes = 0

    def _seal(self) -> None:
        if self._bundle:
            self._start(self._bundle, self._bundle_bytes)
            self._bundle, self._bundle_bytes = [], 0

    def _start(self, blocks: list[_Block], nbytes: int) -> None:
        places = [(block.dataset, block.start) for block in blocks]
        future = self._pool.submit(self._make, blocks)
        self._waiting.append(_Task(places, nbytes, future))

    def _write_ready(self) -> None:
        n_written = 0
        while self._waiting:
            task = self._waiting[0]
            if isinstance(task, _Task) and self.in_flight_bytes <= self.max_bytes:
                if n_written >= WRITTEN_AT_ONCE or not task.future.done():
                    return
                n_written += 1
            self._write_oldest()

    def _write_oldest(self) -> None:
        task = self._waiting.popleft()
        if not isinstance(task, _Task):
            task()
            return
        self.in_flight_bytes -= task.nbytes
        for (dataset, start), made in zip(task.places, task.future.result(), strict=True):
            stored, checksum = made
            if self.watcher is None or self._places is None:
                dataset.write_chunk(start, stored)
            else:
                offset = self._write_and_find(self._places, dataset, start, stored)
                self.watcher(dataset, start, offset, len(stored), checksum)
            self._n_stored += len(stored)
        if self._n_stored >= STORED_BYTES and self._on_stored is not None:
            self._n_stored = 0
            self._pool.submit(self._on_stored)

    def _write_and_find(
        self, places: ChunkPlaces, dataset: GrowingDataset, start: int, stored: bytes | memoryview
    ) -> int:
        """Write a chunk; gives its offset in the file."""
        end = places.end_of_file()
        dataset.write_chunk(start, stored, runs_ahead=self._runs_ahead)
        offset = places.find(stored, end)
        if offset is None:
            offset, size = dataset.place_of(start)
            places.remember(offset, size)
        return offset

    def _make(self, blocks: list[_Block]) -> list[tuple[bytes | memoryview, int]]:
        """Bytes and checksum of each chunk; on a thread of the pool."""
        is_watched = self.watcher is not None
        frames = _frames_together(blocks) if len(blocks) > 1 else {}
        made = []
        for number, block in enumerate(blocks):
            stored = _bytes_of(block, frames.get(number))
            if block.gives_back and isinstance(block.rows, np.ndarray):
                self.buffers.give_back(block.rows)
            made.append((stored, _checksum_of(block, stored) if is_watched else 0))
        return made


def _frames_together(blocks: list[_Block]) -> dict[int, Any]:
    """Frames of those that can be compressed in one call, by their numbers."""
    by_way: dict[Way, list[tuple[int, ChunkCodec, npt.NDArray[Any]]]] = {}
    for number, block in enumerate(blocks):
        codec, rows = block.dataset.codec, block.rows
        # what is converted is so one by one, to memory that the processor has in its cache
        if codec is None or not isinstance(rows, np.ndarray) or rows.dtype != block.dataset.dtype:
            continue
        way = codec.way_together(rows.nbytes, block.level)
        if way is not None:
            by_way.setdefault(way, []).append((number, codec, rows))
    frames: dict[int, Any] = {}
    for way, found in by_way.items():
        pieces = [rows.reshape(-1).view(np.uint8) for _, _, rows in found]
        together = compress_together(pieces, way)
        for (number, codec, rows), frame in zip(found, together, strict=True):
            codec.note_together(frame, rows.nbytes, blocks[number].level)
            frames[number] = frame
    return frames


def _checksum_of(block: _Block, stored: bytes | memoryview) -> int:
    """What the journal says of a chunk; see `FeatureRecord.checksum`."""
    return chunk_checksum(stored) if block.dataset.brings_checksum else zlib.crc32(stored)


def _bytes_of(block: _Block, frame: Any) -> bytes | memoryview:
    codec = block.dataset.codec
    if frame is not None and codec is not None:
        return codec.finish(frame)
    if block.make is not None:
        return block.make(block.level)
    if block.rows is None:
        raise AssertionError("a chunk has rows, or somebody who makes it")
    return block.dataset.encode(block.rows, block.level)
