"""ChunkWriter: one thread that writes what stands in a queue, and keeps its first error.

Alone here: when the thread waits, when it ends, and what is kept after an error. Invariant: after
an error the features that it wrote have one common length, and `write_queue_size` is 0.
"""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import DCWriteError, EventError, StorageError
from ..store.journal import Durability
from ..store.stream_file import StreamFile

if TYPE_CHECKING:
    import h5py

__all__ = ["BatchEnd", "ChunkWriter", "WriterQueue"]

#: A deque of the caller's cannot wake a thread: it is looked at that often.
FOREIGN_QUEUE_PERIOD_S: Final = 0.01


#: Items without batches are committed after that many, or when the queue is empty.
LOOSE_COMMIT_ITEMS: Final = 64


class BatchEnd(NamedTuple):
    """Marks in the queue that all features have brought the rows of a batch."""

    n_events: int
    n_frames: int


class WriterQueue(collections.deque[Any]):
    """A deque that wakes the thread that waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._filled = threading.Event()

    def append(self, item: Any) -> None:
        """Add an item and wake the reader."""
        super().append(item)
        self._filled.set()

    def wake(self) -> None:
        """Let the reader look at its flags."""
        self._filled.set()

    def wait(self) -> None:
        """Block until something was added, or `wake` was called, since the last return."""
        self._filled.wait()
        self._filled.clear()


class ChunkWriter(threading.Thread):
    """Write feature data from a queue in a thread of its own.

    Parameters
    ----------
    path_out
        Path of the file, or an open :class:`h5py.File`, which stays open.
    dq
        Items ``(feature, data)``, taken with ``popleft``; the arrays must not be changed after
        they were put there.
    write_queue_size
        Shared value; the number of items that wait. 0 at the end, also after an error.
    ds_kwds, mode
        As for `HDF5Writer`.
    parent_logger
        Logger under which this one's is made.
    compression, threads, event_count, scalar_attributes
        As for `HDF5Writer`.
    durability
        "process" (what `durable_events` counts survives a kill of the process), "power" (and a
        power cut) or "none". An open file has none.
    sync_interval_s
        With "power": the shortest time between two syncs.
    in_place
        Whether to write under the final name from the start, without a journal.
    on_batch
        Called with (events, frames) after each complete batch.
    on_durable
        Called with `durable_events` when it has changed.
    *args, **kwargs
        For :class:`threading.Thread`.

    Attributes
    ----------
    writer : HDF5Writer
        The writer; of a stream to a path it writes "NAME.rtdc.part", renamed in the end.
    durable_events : int
        Number of events that would survive now.
    may_stop_loop : bool
        Set: end when the queue is empty.
    must_stop_loop : bool
        Set: end now; what is in the queue is not written.
    error : BaseException or None
        The first error.

    Raises
    ------
    StorageError, DamagedFileError
        The file cannot be opened.
    """

    def __init__(
        self,
        path_out: h5py.File | Path | str,
        dq: collections.deque[Any],
        write_queue_size: Any,
        ds_kwds: Mapping[str, Any] | None = None,
        mode: str = "a",
        parent_logger: logging.Logger | None = None,
        *args: Any,
        compression: Any = None,
        threads: int | None = None,
        event_count: bool = False,
        scalar_attributes: bool = False,
        durability: Durability = "process",
        sync_interval_s: float = 0.0,
        in_place: bool = False,
        on_batch: Callable[[int, int], None] | None = None,
        on_durable: Callable[[int], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        parent = parent_logger or logging.getLogger("dcwrite.write")
        self.logger = parent.getChild("ChunkWriter")
        self.dq = dq
        self.may_stop_loop = False
        self.must_stop_loop = False
        self.write_queue_size = write_queue_size
        self.error: BaseException | None = None
        self._on_batch = on_batch
        self._on_durable = on_durable
        self._told_durable = 0
        self._closing = threading.Event()
        #: lengths at the end of the last complete batch; None: the items come without batches
        self._batch_lengths: dict[str, int] | None = None
        self._loose_items = 0
        self._file = StreamFile(
            path_out,
            mode,
            durability=durability,
            sync_interval_s=sync_interval_s,
            in_place=in_place,
            writer_options={
                "ds_kwds": ds_kwds,
                "compression": compression,
                "threads": threads,
                "event_count": event_count,
                "scalar_attributes": scalar_attributes,
            },
        )
        self.writer = self._file.writer

    @property
    def durable_events(self) -> int:
        """Number of events that would survive a kill (or a power cut, where asked for) now."""
        return self._file.durable_events

    def abort_loop(self) -> None:
        """End as soon as possible; what is in the queue is not written."""
        self.must_stop_loop = True
        self._wake()

    def finished_when_queue_empty(self) -> None:
        """End as soon as the queue is empty."""
        self.may_stop_loop = True
        self._wake()

    def _wake(self) -> None:
        self._closing.set()
        if isinstance(self.dq, WriterQueue):
            self.dq.wake()

    def check(self) -> None:
        """Raise the thread's error, if there is one."""
        if self.error is not None:
            raise self.error

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end.

        Raises
        ------
        BaseException
            The error with which the thread ended.
        """
        super().join(timeout)
        if not self.is_alive():
            self.check()

    def run(self) -> None:
        """Write until the queue is empty and the end was asked for; without `start` too.

        Raises
        ------
        BaseException
            The first error, if called directly. A started thread keeps it in `error`, and raises
            it from `check` and `join`.
        """
        try:
            self._loop_and_finish()
        except BaseException as exc:
            self.error = exc
            self.logger.error("Writing '%s' failed: %s", self.writer.path, exc)  # noqa: TRY400
            if threading.current_thread() is not self:
                raise
        finally:
            self.dq.clear()
            self.write_queue_size.value = 0

    def _loop_and_finish(self) -> None:
        try:
            self._loop()
        except StorageError as exc:
            self._file.leave()
            raise self._file.explain(exc) from exc
        except BaseException:
            self._finish_what_is_complete()
            raise
        if self.must_stop_loop:
            self._finish_what_is_complete()
        else:
            self._finish()
        self._tell()

    def _tell(self) -> None:
        durable = self._file.durable_events
        if durable != self._told_durable and self._on_durable is not None:
            self._told_durable = durable
            self._on_durable(durable)

    def _finish(self) -> None:
        try:
            self._file.finish()
        except StorageError as exc:
            raise self._file.explain(exc) from exc

    def _finish_what_is_complete(self) -> None:
        """Before its time: cut all features to the last complete batch, and give it its name."""
        lengths = self._batch_lengths
        if lengths is None:
            written = self.writer.lengths()
            lengths = dict.fromkeys(written, min(written.values(), default=0))
        try:
            self.writer.truncate(lengths)
        except StorageError:
            self._file.leave()
            return
        with suppress(DCWriteError):  # the first error matters more
            self._file.finish()

    def _loop(self) -> None:
        while not self.must_stop_loop:
            # the flag before the queue: what was added before the flag was set is then seen
            may_stop = self.may_stop_loop
            self.write_queue_size.value = len(self.dq)
            if self.dq:
                self._write(self.dq.popleft())
                self._tell()
            elif may_stop:
                return
            else:
                self._wait()

    def _wait(self) -> None:
        """Nothing to do: let what was stored become durable, then sleep."""
        if self._loose_items:
            self._commit_loose()
        self._file.idle()
        self._tell()
        if isinstance(self.dq, WriterQueue):
            self.dq.wait()
        else:
            self._closing.wait(FOREIGN_QUEUE_PERIOD_S)

    def _write(self, item: Any) -> None:
        if isinstance(item, BatchEnd):
            self._batch_lengths = self.writer.lengths()
            self._file.commit(item.n_events, item.n_frames, self._on_batch)
            return
        try:
            feat, data = item
        except (TypeError, ValueError) as exc:
            raise EventError(
                f"chunk queue: expected items (feature, data), got {str(item)[:80]!r}"
            ) from exc
        self._file.store(feat, data)
        if self._batch_lengths is None:
            self._loose_items += 1
            if self._loose_items >= LOOSE_COMMIT_ITEMS:
                self._commit_loose()

    def _commit_loose(self) -> None:
        """Commit items that come without batches: as many events as all features have."""
        self._loose_items = 0
        self._file.commit(None, 0, None)
