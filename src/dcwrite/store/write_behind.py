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

import numpy.typing as npt

from .append import GrowingDataset
from .encoder import EncoderPool
from .load import LevelPolicy

__all__ = ["ChunkWatcher", "WriteBehind"]

#: Raw bytes of chunks that may wait for the encoder or the disk.
IN_FLIGHT_BYTES: Final = 64 * 1024**2
#: Smaller chunks go to the encoder together: a task costs some 20 us, a scalar chunk 30 us.
BUNDLE_BYTES: Final = 256 * 1024


class _Block(NamedTuple):
    dataset: GrowingDataset
    start: int
    rows: npt.NDArray[Any]
    level: int | None


class _Task(NamedTuple):
    blocks: list[_Block]
    nbytes: int
    future: Future[list[tuple[bytes | memoryview, int]]]


#: Told of each written chunk: dataset, first row, offset in the file, size, CRC-32.
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
    """

    def __init__(
        self, pool: EncoderPool, policy: LevelPolicy, max_bytes: int = IN_FLIGHT_BYTES
    ) -> None:
        self._pool = pool
        self.policy = policy
        #: raw bytes that may wait
        self.max_bytes = max_bytes
        self._waiting: deque[_Task | Callable[[], None]] = deque()
        self._bundle: list[_Block] = []
        self._bundle_bytes = 0
        self.in_flight_bytes = 0
        #: told of each chunk that was written; set it before the first one
        self.watcher: ChunkWatcher | None = None

    def submit(self, dataset: GrowingDataset, start: int, rows: npt.NDArray[Any]) -> None:
        """Encode a whole chunk and write it later; may first write older ones.

        Raises
        ------
        StorageError
            An older chunk could not be written.
        """
        self.in_flight_bytes += rows.nbytes
        own_level = None if dataset.codec is None else dataset.codec.level
        level = self.policy.choose(self.in_flight_bytes / self.max_bytes, own_level)
        block = _Block(dataset, start, rows, level)
        if rows.nbytes >= BUNDLE_BYTES:
            self._start([block], rows.nbytes)
        else:
            self._bundle.append(block)
            self._bundle_bytes += rows.nbytes
            if self._bundle_bytes >= BUNDLE_BYTES:
                self._seal()
        self._write_ready()

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
        self._bundle.clear()
        self._bundle_bytes = self.in_flight_bytes = 0

    def _seal(self) -> None:
        if self._bundle:
            self._start(self._bundle, self._bundle_bytes)
            self._bundle, self._bundle_bytes = [], 0

    def _start(self, blocks: list[_Block], nbytes: int) -> None:
        future = self._pool.submit(_encode, blocks, self.watcher is not None)
        self._waiting.append(_Task(blocks, nbytes, future))

    def _write_ready(self) -> None:
        while self._waiting:
            task = self._waiting[0]
            if (
                isinstance(task, _Task)
                and self.in_flight_bytes <= self.max_bytes
                and not task.future.done()
            ):
                return
            self._write_oldest()

    def _write_oldest(self) -> None:
        task = self._waiting.popleft()
        if not isinstance(task, _Task):
            task()
            return
        self.in_flight_bytes -= task.nbytes
        for block, (stored, checksum) in zip(task.blocks, task.future.result(), strict=True):
            offset, size = block.dataset.write_chunk(block.start, stored)
            if self.watcher is not None:
                self.watcher(block.dataset, block.start, offset, size, checksum)


def _encode(blocks: list[_Block], with_checksum: bool) -> list[tuple[bytes | memoryview, int]]:
    encoded = []
    for block in blocks:
        if block.dataset.codec is None:
            raise AssertionError("only datasets with a codec have chunks to encode")
        stored = block.dataset.codec.encode(block.rows, block.level)
        encoded.append((stored, zlib.crc32(stored) if with_checksum else 0))
    return encoded
