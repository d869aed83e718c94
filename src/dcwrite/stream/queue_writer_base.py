"""What QueueWriterThread and QueueWriterProcess have in common: one collector, one chunk writer.

Alone here: how the two are held together, when a stream is given up, and what its log says.
Invariant: an error leaves behind all complete frames that came before it.
"""

from __future__ import annotations

import collections
import json
import logging
import multiprocessing as mp
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Final

import numpy as np

from .._version import __version__
from ..errors import AbortedError, DCWriteError, EventError, WriterDiedError
from ..store.compact_rows import as_array
from ..store.encoder import require_count
from .bringers import children_that_ended, nobody_is_left
from .chunk_writer import BatchEnd, ChunkWriter, WriterQueue
from .collector import MEMORY_BUDGET, Collector
from .relay import n_waiting

__all__ = ["MEMORY_BUDGET", "Counter", "QueueWriterBase", "mp_spawn"]

#: Seconds between two looks at who could still bring frames.
LOOK_S: Final = 1.0
#: While more frames than that part of a batch wait in the event queue, a level that fits the load
#: does not rise.
PRESSING_PART: Final = 1 / 8
#: The processes are spawned on every system: forked ones inherit locks in any state.
mp_spawn = mp.get_context("spawn")


class Counter:
    """A shared number that tells of a dead writer: `value` raises the writer's error.

    Parameters
    ----------
    raw
        The shared value.
    owner
        The writer whose `check` is called.
    """

    def __init__(self, raw: Any, owner: QueueWriterBase) -> None:
        self._raw = raw
        self._owner = owner

    @property
    def value(self) -> int:
        """The number.

        Raises
        ------
        BaseException
            The error with which the writer ended.
        """
        self._owner.check()
        return self.peek()

    def peek(self) -> int:
        """The number, whatever became of the writer."""
        return int(self._raw.value)


class QueueWriterBase:
    """What thread and process have in common; not to be used by itself."""

    _logger_name = "dcwrite.write.QueueWriter"

    def _set_up(
        self,
        event_queue: Any,
        write_queue_size: Any,
        feat_nevents: Sequence[int],
        path_out: Path | str,
        hdf5_dataset_kwargs: Mapping[str, Any] | None,
        write_threshold: int,
        stall_timeout: float | None,
        frame_info: bool,
        memory_budget: int,
        stream_log: bool,
        writer_options: Mapping[str, Any],
    ) -> None:
        self.log_level = logging.getLogger("dcwrite").level
        self.event_queue = event_queue
        self.write_queue_size = write_queue_size
        self.feat_nevents = feat_nevents
        self.path_out = path_out
        self.hdf5_dataset_kwargs = dict(hdf5_dataset_kwargs) if hdf5_dataset_kwargs else None
        self.write_threshold = write_threshold
        self.stall_timeout = stall_timeout
        self.frame_info = frame_info
        self.memory_budget = memory_budget
        self._stream_log = stream_log
        self._signal: int | None = None
        #: the caller's count of frames that it dropped before they came here; goes into the log
        self.dropped_frames = mp_spawn.RawValue("Q", 0)
        self.error: BaseException | None = None
        self._writer_options = dict(writer_options)
        # without locks: only the writer counts, and one that is killed may hold a lock for ever
        self._events = mp_spawn.RawValue("Q", 0)
        self._frames = mp_spawn.RawValue("Q", 0)
        self._durable = mp_spawn.RawValue("Q", 0)
        self._abort = mp_spawn.RawValue("b", 0)
        #: why nothing will come any more, as UTF-8; empty: that is not known
        self._nobody_is_left = mp_spawn.RawArray("c", 400)
        self._ended_before: Any = children_that_ended()
        # refuses wrong arguments here, and not later in a thread
        require_count("threads", writer_options.get("threads"))
        Collector(
            event_queue,
            (),
            write_threshold=write_threshold,
            put_batch=print,
            check=print,
            stall_timeout=stall_timeout,
        )
        is_sized = hasattr(feat_nevents, "__len__") and not isinstance(feat_nevents, (str, bytes))
        if not is_sized or getattr(feat_nevents, "ndim", 1) != 1:
            raise EventError(f"feat_nevents: expected one integer per frame, got {feat_nevents!r}")

    @property
    def written_events(self) -> Counter:
        """Number of events handed to HDF5; its `value` raises the writer's error."""
        return Counter(self._events, self)

    @property
    def written_frames(self) -> Counter:
        """Number of frames handed to HDF5; its `value` raises the writer's error."""
        return Counter(self._frames, self)

    @property
    def durable_events(self) -> Counter:
        """Number of events that would survive now; its `value` raises the writer's error."""
        return Counter(self._durable, self)

    def abort(self) -> None:
        """End the writer from outside; complete frames that it has are written.

        It ends within about 0.1 s plus the time that writing takes. `error` is then an
        `AbortedError`, which `join` does not raise.
        """
        self._abort.value = 1

    def check(self) -> None:
        """Raise the error with which the writer ended, if it did; not that of `abort`."""
        if self.error is None or (isinstance(self.error, AbortedError) and self._abort.value):
            return
        raise self.error

    def _wait_for_end(self, join: Callable[[float | None], None], timeout: float | None) -> None:
        """Join; the main thread, while it waits, cannot bring frames: look for others that can."""
        if timeout is not None or threading.current_thread() is not threading.main_thread():
            join(timeout)
            return
        join(0)
        while self.is_alive():  # type: ignore[attr-defined]  # of Thread and of Process
            reason = nobody_is_left(self.event_queue, self._ended_before)
            if reason is not None:
                self._nobody_is_left.value = reason.encode()[:399]
            join(LOOK_S)

    def get_logger(self) -> logging.Logger:
        """Logger of this writer."""
        logger = logging.getLogger(self._logger_name)
        logger.setLevel(self.log_level)
        return logger

    def _refuse_to_go_on(self) -> None:
        if self._abort.value:
            raise AbortedError(f"'{self.path_out}': the writer was aborted")
        if self._signal is not None:
            raise AbortedError(
                f"'{self.path_out}': the writer process got {signal.Signals(self._signal).name}; "
                f"complete frames were written"
            )
        if _nobody_else_is_alive():
            raise AbortedError(
                f"'{self.path_out}': the program has ended, and nobody is left who could bring "
                f"the missing frames"
            )
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            raise WriterDiedError("the process that started the writer has died")

    def _write(
        self,
        buffer_dq: collections.deque[Any] | None,
        writer_dq: collections.deque[Any] | None,
        logger: logging.Logger,
    ) -> None:
        """Collect and write all frames; raises the first error, and tells those who put."""
        try:
            self._collect_and_write(buffer_dq, writer_dq, logger)
        except BaseException:
            self._refuse_events()
            raise

    def _refuse_events(self) -> None:
        """Let nobody wait for room in a queue that nobody reads any more."""
        refuse = getattr(self.event_queue, "refuse", None)
        if refuse is not None:
            refuse()

    def _collect_and_write(
        self,
        buffer_dq: collections.deque[Any] | None,
        writer_dq: collections.deque[Any] | None,
        logger: logging.Logger,
    ) -> None:
        # nothing is put here, so the queue's own thread must not be waited for
        cancel_join_thread = getattr(self.event_queue, "cancel_join_thread", None)
        if cancel_join_thread is not None:
            cancel_join_thread()
        # a half is the collector's; what waits for the encoder holds whole batches while one of
        # their chunks is not encoded. With less than a batch of images (38 MB) each, the encoder
        # runs out of work while the next one is collected
        share = self.memory_budget * 5 // 32
        dq = WriterQueue(share) if writer_dq is None else writer_dq
        report = _StreamReport(self)
        try:
            writer = ChunkWriter(
                path_out=self.path_out,
                dq=dq,
                write_queue_size=self.write_queue_size,
                ds_kwds=self.hdf5_dataset_kwargs,
                mode="w",
                parent_logger=logger,
                daemon=True,
                on_batch=self._count,
                on_durable=self._count_durable,
                final_log=report.lines if self._stream_log else None,
                **self._writer_options,
            )
        except DCWriteError:
            self.write_queue_size.value = 0
            raise

        def check() -> None:
            writer.check()
            self._refuse_to_go_on()

        def put_batch(events: dict[str, Any], n_events: int, n_frames: int) -> None:
            writer.check()
            end = BatchEnd(n_events, n_frames)
            if isinstance(dq, WriterQueue):
                dq.put_all((*events.items(), end), writer.check)
            else:  # of the caller's, who may look at the arrays
                dq.extend((feat, as_array(rows)) for feat, rows in events.items())
                dq.append(end)

        collector = Collector(
            self.event_queue,
            self.feat_nevents,
            write_threshold=self.write_threshold,
            put_batch=put_batch,
            check=check,
            stall_timeout=self.stall_timeout,
            frame_info=self.frame_info,
            memory_budget=self.memory_budget,
            spool_dir=Path(self.path_out).parent,
            nobody_is_left=lambda: self._nobody_is_left.value.decode(errors="replace") or None,
        )
        report.collector = collector
        writer.writer.bound_waiting(share)
        most = int(self.write_threshold * PRESSING_PART)
        writer.writer.hold_level_while(lambda: n_waiting(self.event_queue) > most)
        report.level_counts = lambda: writer.writer.level_counts
        writer.start()
        try:
            collector.run(buffer_dq)
        except BaseException as exc:
            report.error = exc
            raise
        finally:
            # an error of the collector leaves complete batches behind, which are written
            writer.finished_when_queue_empty()
            threading.Thread.join(writer)
        writer.check()
        logger.info("Wrote %d events of %d frames", self._events.value, self._frames.value)

    def _count(self, n_events: int, n_frames: int) -> None:
        self._events.value += n_events
        self._frames.value += n_frames

    def _count_durable(self, n_events: int) -> None:
        self._durable.value = n_events


class _StreamReport:
    """What the log "dcwrite-stream" says: how the stream ended, and which frames it had."""

    def __init__(self, owner: QueueWriterBase) -> None:
        self._owner = owner
        self.collector: Collector | None = None
        self.error: BaseException | None = None
        self.level_counts: Callable[[], dict[int, int]] = dict

    def lines(self, writer_error: BaseException | None) -> list[str]:
        """The log's lines, a JSON object."""
        owner, collector = self._owner, self.collector
        error = self.error or writer_error
        counts = np.array(owner.feat_nevents[:])
        written = owner.written_frames.peek()
        content = {
            "software": f"dcwrite {__version__}",
            "ended": "complete" if error is None else f"{type(error).__name__}: {error}",
            "frames announced": len(counts),
            "frames received": 0 if collector is None else collector.n_received,
            "frames without events": int((counts == 0).sum()),
            "frames never processed": int((counts < 0).sum()),
            "frames dropped by the caller": int(owner.dropped_frames.value),
            "frames written": written,
            "frames missing": len(counts) - written,
            "events written": owner.written_events.peek(),
            "chunks by Zstandard level": self.level_counts(),
        }
        return json.dumps(content, indent=2).split("\n")


def _nobody_else_is_alive() -> bool:
    """Whether the main thread has ended, and no thread or child could still bring events."""
    if threading.main_thread().is_alive() or mp.active_children():
        return False
    ours = ("QueueWriterThread", "dcwrite", "ChunkWriter")
    me = threading.current_thread()
    return not any(
        thread is not me and not thread.daemon and not thread.name.startswith(ours)
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
    )
