"""ChunkWriter: one thread that writes what stands in a queue, and keeps its first error.

Alone here: when the thread waits, when it ends, and what is kept after an error. Invariant: after
an error the features that it wrote have one common length, and `write_queue_size` is 0.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..errors import DCWriteError, EventError, StorageError
from ..store.encoder import require_count
from ..store.hdf5 import File
from ..store.journal import Durability
from ..store.space import SpaceWatch
from ..store.stream_file import StreamFile

__all__ = ["BatchEnd", "ChunkWriter", "WriterQueue"]

#: A deque of the caller's cannot wake a thread: it is looked at that often.
FOREIGN_QUEUE_PERIOD_S: Final = 0.01


#: Name of the log that a queue writer leaves.
STREAM_LOG: Final = "dcwrite-stream"
#: The longest time until a producer that waits notices that its reader has ended.
TICK_S: Final = 0.1
#: Items of that size in all may be added to the queue at once.
AT_ONCE_BYTES: Final = 1024**2
#: Small batches are committed together while more of them wait, up to that many frames.
TOGETHER_FRAMES: Final = 100
#: Larger ones are committed that often while more of them wait, or each if it takes longer to
#: write one: each commit brings the rows of all unfinished chunks.
COMMIT_PERIOD_S: Final = 0.1
#: Items without batches are committed after that many, or when the queue is empty.
LOOSE_COMMIT_ITEMS: Final = 64


class BatchEnd(NamedTuple):
    """Marks in the queue that all features have brought the rows of a batch."""

    n_events: int
    n_frames: int


class WriterQueue(collections.deque[Any]):
    """A deque that wakes the thread that waits for it, and makes a fast producer wait.

    Parameters
    ----------
    max_bytes
        Bytes of arrays that may wait, plus one array.
    """

    def __init__(self, max_bytes: int = 64 * 1024**2) -> None:
        super().__init__()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._changed = threading.Condition()
        self._woken = False

    def put(self, item: Any, check: Callable[[], None]) -> None:
        """Add an item; waits while too much is in the queue.

        Parameters
        ----------
        item
            Item to add.
        check
            Called while waiting; raises when nobody reads any more.
        """
        with self._changed:
            while self._bytes > self._max_bytes:
                self._changed.wait(TICK_S)
                check()
            self.append(item)

    def put_all(self, items: Sequence[Any], check: Callable[[], None]) -> None:
        """Add several items; small ones at once, which wakes the reader once.

        Parameters
        ----------
        items, check
            As for `put`.
        """
        n_bytes = sum(map(_nbytes, items))
        if n_bytes > AT_ONCE_BYTES:
            for item in items:
                self.put(item, check)
            return
        with self._changed:
            while self._bytes > self._max_bytes:
                self._changed.wait(TICK_S)
                check()
            self.extend(items)
            self._bytes += n_bytes
            self._changed.notify_all()

    def append(self, item: Any) -> None:
        """Add an item and wake the reader."""
        with self._changed:
            super().append(item)
            self._bytes += _nbytes(item)
            self._changed.notify_all()

    def popleft(self) -> Any:
        """Take the oldest item and wake the producer."""
        with self._changed:
            item = super().popleft()
            self._bytes -= _nbytes(item)
            if self._bytes <= self._max_bytes:  # else it would only wake up and wait again
                self._changed.notify_all()
        return item

    def clear(self) -> None:
        """Take all items."""
        with self._changed:
            super().clear()
            self._bytes = 0
            self._changed.notify_all()

    def wake(self) -> None:
        """Let the reader look at its flags."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Block until there is an item, or `wake` was called since the last return."""
        with self._changed:
            self._changed.wait_for(lambda: self._woken or len(self) > 0)
            self._woken = False


def _nbytes(item: Any) -> int:
    """Size of the arrays of an item."""
    data = item[1] if len(item) == 2 else None
    if isinstance(data, list):
        return sum(getattr(part, "nbytes", 0) for part in data)
    return int(getattr(data, "nbytes", 0))


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
    compression, threads, event_count, scalar_attributes, dedup_background
        As for `HDF5Writer`.
    durability
        "process" (what `durable_events` counts survives a kill of the process), "power" (and a
        power cut) or "none". An open file has none.
    sync_interval_s
        With "power": the shortest time between two syncs.
    in_place
        Whether to write under the final name from the start, without a journal.
    live
        Whether other programs may read "NAME.rtdc.part" with HDF5's SWMR mode meanwhile; all
        features have to be there in the first batch. `Recording(path, live=True)` follows any
        stream, without this.
    on_batch
        Called with (events, frames) after each complete batch.
    on_durable
        Called with `durable_events` when it has changed.
    final_log
        Gives the lines of the log "dcwrite-stream" at the end; its argument is the error, if any.
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
        path_out: File | Path | str,
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
        dedup_background: bool = False,
        durability: Durability = "process",
        sync_interval_s: float = 0.0,
        in_place: bool = False,
        live: bool = False,
        on_batch: Callable[[int, int], None] | None = None,
        on_durable: Callable[[int], None] | None = None,
        final_log: Callable[[BaseException | None], list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        require_count("threads", threads)
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
        self._final_log = final_log
        self._closing = threading.Event()
        #: whether items come in batches; else from the first end of a batch on
        self._has_batches = on_batch is not None
        #: lengths at the end of the last complete batch; None: there was none
        self._batch_lengths: dict[str, int] | None = {} if self._has_batches else None
        #: complete batches that are not committed yet: events and frames of each
        self._uncommitted: list[BatchEnd] = []
        #: time at which the next commit is due, while more waits
        self._next_commit = 0.0
        #: time at which the first item of the batch was taken; None: none of a batch has come
        self._batch_began: float | None = None
        self._loose_items = 0
        #: features of items without batches; when one comes again, all have come
        self._loose_features: set[str] = set()
        self._features_known = False
        self._space = SpaceWatch(Path(path_out) if isinstance(path_out, (str, Path)) else ".")
        self._file = StreamFile(
            path_out,
            mode,
            durability=durability,
            sync_interval_s=sync_interval_s,
            in_place=in_place,
            live=live,
            writer_options={
                "ds_kwds": ds_kwds,
                "compression": compression,
                "threads": threads,
                "event_count": event_count,
                "scalar_attributes": scalar_attributes,
                "dedup_background": dedup_background,
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
        except BaseException as exc:
            self._finish_what_is_complete(exc)
            raise
        if self.must_stop_loop:
            self._finish_what_is_complete(None)
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
            if self._batch_began is None:
                self._commit_batches()
            self._store_final_log(None)
            self._file.finish()
        except StorageError as exc:
            self._file.leave()
            raise self._file.explain(exc) from exc

    def _finish_what_is_complete(self, error: BaseException | None) -> None:
        """Before its time: cut all features to the last complete batch, and give it its name."""
        lengths = self._batch_lengths
        if lengths is None:
            written = self.writer.lengths()
            lengths = dict.fromkeys(written, min(written.values(), default=0))
        try:
            self._file.end_live()
            self.writer.truncate(lengths)
            self._commit_batches()
            self._store_final_log(error)
            self._file.finish()
        except DCWriteError:  # the first error matters more
            self._file.leave()

    def _store_final_log(self, error: BaseException | None) -> None:
        self._file.end_live()
        if self._final_log is not None:
            self.writer.store_log(STREAM_LOG, self._final_log(error), override=True)

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
        if self._batch_began is None:
            self._commit_batches()
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
            self._has_batches = True
            self._batch_lengths = self.writer.lengths()
            self._uncommitted.append(item)
            # the next batch may take as long as this one
            began, now = self._batch_began, time.monotonic()
            self._batch_began = None
            if not self.dq or self._is_commit_due(now if began is None else 2 * now - began):
                self._commit_batches()
            return
        try:
            feat, data = item
        except (TypeError, ValueError) as exc:
            raise EventError(
                f"chunk queue: expected items (feature, data), got {str(item)[:80]!r}"
            ) from exc
        if self._batch_began is None:
            self._batch_began = time.monotonic()
            if self._is_commit_due(self._batch_began):
                self._commit_batches()  # afterwards there are rows that belong to no batch yet
        self._file.store(feat, data)
        if not self._has_batches:
            self._loose_items += 1
            self._features_known |= feat in self._loose_features
            self._loose_features.add(feat)
            if self._loose_items >= LOOSE_COMMIT_ITEMS:
                self._commit_loose()

    def _is_commit_due(self, now: float) -> bool:
        """Whether complete batches should not wait for more."""
        if not self._uncommitted:
            return False
        if self._uncommitted[-1].n_frames >= TOGETHER_FRAMES:
            return now >= self._next_commit
        return sum(batch.n_frames for batch in self._uncommitted) >= TOGETHER_FRAMES

    def _commit_batches(self) -> None:
        """Commit all complete batches with one record: a commit takes as long as 20 events."""
        batches, self._uncommitted = self._uncommitted, []
        if not batches:
            return
        self._next_commit = time.monotonic() + COMMIT_PERIOD_S
        n_events = sum(batch.n_events for batch in batches)
        n_frames = sum(batch.n_frames for batch in batches)
        self._file.commit(n_events, n_frames, self._on_batch)
        if warning := self._space.warning():
            self.logger.warning(warning)

    def _commit_loose(self) -> None:
        """Commit items that come without batches: as many events as all features have.

        Before a feature comes for the second time, others may be missing: what is counted as
        durable then would not be an event yet.
        """
        if self._has_batches or not self._features_known:
            return
        self._loose_items = 0
        self._file.commit(None, 0, None)
