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

from ..errors import DCWriteError, EventError
from ..store.writer import HDF5Writer

if TYPE_CHECKING:
    import h5py

__all__ = ["BatchEnd", "ChunkWriter", "WriterQueue"]

#: A deque of the caller's cannot wake a thread: it is looked at that often.
FOREIGN_QUEUE_PERIOD_S: Final = 0.01


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
    on_batch
        Called with (events, frames) after each complete batch.
    *args, **kwargs
        For :class:`threading.Thread`.

    Attributes
    ----------
    writer : HDF5Writer
        The writer.
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
        on_batch: Callable[[int, int], None] | None = None,
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
        self._closing = threading.Event()
        #: lengths at the end of the last complete batch; None: the items come without batches
        self._batch_lengths: dict[str, int] | None = None
        self.writer = HDF5Writer(
            path_out,
            mode=mode,
            ds_kwds=ds_kwds,
            compression=compression,
            threads=threads,
            event_count=event_count,
            scalar_attributes=scalar_attributes,
            stream=True,
        )

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
            try:
                self._loop()
                if self.must_stop_loop:
                    self._save_what_is_complete()
                self.writer.close()
            except BaseException:
                self._save_what_is_complete()
                raise
        except BaseException as exc:
            self.error = exc
            self.logger.error("Writing '%s' failed: %s", self.writer.path, exc)  # noqa: TRY400
            if threading.current_thread() is not self:
                raise
        finally:
            self.dq.clear()
            self.write_queue_size.value = 0

    def _loop(self) -> None:
        while not self.must_stop_loop:
            # the flag before the queue: what was added before the flag was set is then seen
            may_stop = self.may_stop_loop
            self.write_queue_size.value = len(self.dq)
            if self.dq:
                self._write(self.dq.popleft())
            elif may_stop:
                return
            elif isinstance(self.dq, WriterQueue):
                self.dq.wait()
            else:
                self._closing.wait(FOREIGN_QUEUE_PERIOD_S)

    def _write(self, item: Any) -> None:
        if isinstance(item, BatchEnd):
            self._batch_lengths = self.writer.lengths()
            if self._on_batch is not None:
                self._on_batch(item.n_events, item.n_frames)
            return
        try:
            feat, data = item
        except (TypeError, ValueError) as exc:
            raise EventError(
                f"chunk queue: expected items (feature, data), got {str(item)[:80]!r}"
            ) from exc
        self.writer.store_feature_chunk(feat=feat, data=data)

    def _save_what_is_complete(self) -> None:
        """Before its time: cut all features to the last complete batch, and close."""
        with suppress(DCWriteError):
            lengths = self._batch_lengths
            if lengths is None:
                written = self.writer.lengths()
                lengths = dict.fromkeys(written, min(written.values(), default=0))
            self.writer.truncate(lengths)
        with suppress(DCWriteError):
            self.writer.close()
