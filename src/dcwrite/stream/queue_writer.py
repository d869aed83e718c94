"""QueueWriterThread and QueueWriterProcess: collector and chunk writer in a thread or process.

Alone here: how the two are held together, and how an error reaches those who wait. Invariant: an
error is raised at the next look at a counter and at `join`, a process ends with a non-zero exit
code, and the file holds all complete frames that came before.
"""

from __future__ import annotations

import collections
import logging
import multiprocessing as mp
import os
import pickle
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from ..errors import AbortedError, DCWriteError, WriterDiedError
from ..store.journal import Durability
from .chunk_writer import BatchEnd, ChunkWriter, WriterQueue
from .collector import Collector

__all__ = ["Counter", "QueueWriterProcess", "QueueWriterThread"]

#: The processes are spawned on every system: forked ones inherit locks in any state.
mp_spawn = mp.get_context("spawn")

#: A clean end after the user's Ctrl-C, as shells write it.
_EXIT_FAILED = 1


class Counter:
    """A shared number that tells of a dead writer: `value` raises the writer's error.

    Parameters
    ----------
    raw
        The shared value.
    owner
        The writer whose `check` is called.
    """

    def __init__(self, raw: Any, owner: _QueueWriter) -> None:
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


class _QueueWriter:
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
        self.error: BaseException | None = None
        self._writer_options = dict(writer_options)
        # without locks: only the writer counts, and one that is killed may hold a lock for ever
        self._events = mp_spawn.RawValue("Q", 0)
        self._frames = mp_spawn.RawValue("Q", 0)
        self._durable = mp_spawn.RawValue("Q", 0)
        self._abort = mp_spawn.Event()
        # refuses a wrong threshold here, and not later in a thread
        Collector((), (), write_threshold=write_threshold, put_batch=print, check=print)

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
        self._abort.set()

    def check(self) -> None:
        """Raise the error with which the writer ended, if it did; not that of `abort`."""
        if self.error is not None and not isinstance(self.error, AbortedError):
            raise self.error

    def get_logger(self) -> logging.Logger:
        """Logger of this writer."""
        logger = logging.getLogger(self._logger_name)
        logger.setLevel(self.log_level)
        return logger

    def _refuse_to_go_on(self) -> None:
        if self._abort.is_set():
            raise AbortedError(f"'{self.path_out}': the writer was aborted")
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            raise WriterDiedError("the process that started the writer has died")

    def _write(
        self,
        buffer_dq: collections.deque[Any] | None,
        writer_dq: collections.deque[Any] | None,
        logger: logging.Logger,
    ) -> None:
        """Collect and write all frames; raises the first error."""
        # nothing is put here, so the queue's own thread must not be waited for
        cancel_join_thread = getattr(self.event_queue, "cancel_join_thread", None)
        if cancel_join_thread is not None:
            cancel_join_thread()
        dq = WriterQueue() if writer_dq is None else writer_dq
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
                **self._writer_options,
            )
        except DCWriteError:
            self.write_queue_size.value = 0
            raise

        def put_batch(events: dict[str, Any], n_events: int, n_frames: int) -> None:
            writer.check()
            for item in events.items():
                dq.append(item)
            dq.append(BatchEnd(n_events, n_frames))

        def check() -> None:
            writer.check()
            self._refuse_to_go_on()

        writer.start()
        try:
            Collector(
                self.event_queue,
                self.feat_nevents,
                write_threshold=self.write_threshold,
                put_batch=put_batch,
                check=check,
                stall_timeout=self.stall_timeout,
                frame_info=self.frame_info,
            ).run(buffer_dq)
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


class QueueWriterThread(_QueueWriter, threading.Thread):
    """Write events from a queue to an .rtdc file, in a thread.

    Frames may come in any order; they are written in the order of their index.

    Parameters
    ----------
    event_queue
        Queue of items ``(frame_index, events)``: a multiprocessing queue, `queue.Queue`,
        `queue.SimpleQueue`, or anything with such a ``get(timeout=)``. `events` is a dict of
        arrays whose first axis is the event, or None for a frame without events, which needs no
        item.
    write_queue_size
        Shared value that is set to the number of arrays that wait to be written.
    feat_nevents
        Number of events per frame, shape (frames,): shared array, numpy array or list. -1: not
        processed yet; it has to be set before the frame's item is put.
    path_out
        Path of the file; an existing one is replaced.
    hdf5_dataset_kwargs
        Arguments for new datasets; default: Zstandard level 5 and Fletcher-32.
    write_threshold
        Number of frames that are written at a time.
    stall_timeout
        Seconds without any news after which missing frames are an error; None: wait for ever.
    frame_info
        Whether to add the features "index_unmapped" and "nevents".
    compression, threads, event_count, scalar_attributes
        As for `HDF5Writer`.
    durability, sync_interval_s, in_place
        As for `ChunkWriter`.
    *args, **kwargs
        For :class:`threading.Thread`.

    Attributes
    ----------
    error : BaseException or None
        What ended the writer before its time.
    written_events, written_frames, durable_events : Counter
        Numbers handed to HDF5, and number of events that would survive a kill now; ``.value``
        raises the error of a writer that failed.
    """

    _logger_name = "dcwrite.write.QueueWriterThread"

    def __init__(
        self,
        event_queue: Any,
        write_queue_size: Any,
        feat_nevents: Sequence[int],
        path_out: Path | str,
        hdf5_dataset_kwargs: Mapping[str, Any] | None = None,
        write_threshold: int = 500,
        *args: Any,
        stall_timeout: float | None = None,
        frame_info: bool = True,
        compression: Any = None,
        threads: int | None = None,
        event_count: bool = False,
        scalar_attributes: bool = False,
        durability: Durability = "process",
        sync_interval_s: float = 0.0,
        in_place: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "QueueWriterThread")
        threading.Thread.__init__(self, *args, **kwargs)
        self._set_up(
            event_queue,
            write_queue_size,
            feat_nevents,
            path_out,
            hdf5_dataset_kwargs,
            write_threshold,
            stall_timeout,
            frame_info,
            {
                "compression": compression,
                "threads": threads,
                "event_count": event_count,
                "scalar_attributes": scalar_attributes,
                "durability": durability,
                "sync_interval_s": sync_interval_s,
                "in_place": in_place,
            },
        )

    def run(
        self,
        buffer_dq: collections.deque[Any] | None = None,
        writer_dq: collections.deque[Any] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        """Write until all frames are written; without `start` too.

        Parameters
        ----------
        buffer_dq
            Items that were taken from the queue before; it is emptied.
        writer_dq
            Queue between collecting and writing; default: one that wakes the writer.
        logger
            Logger to use.

        Raises
        ------
        BaseException
            The first error, if called directly. A started thread keeps it in `error`, and raises
            it from the counters, `check` and `join`.
        """
        try:
            self._write(buffer_dq, writer_dq, logger or self.get_logger())
        except BaseException as exc:
            self.error = exc
            if threading.current_thread() is not self:
                raise
            self.get_logger().error("QueueWriterThread failed: %s", exc)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end.

        Raises
        ------
        BaseException
            The error with which the thread ended, but not that of `abort`.
        """
        threading.Thread.join(self, timeout)
        if not self.is_alive():
            self.check()


class QueueWriterProcess(_QueueWriter, mp_spawn.Process):  # type: ignore[name-defined,misc]
    """Write events from a queue to an .rtdc file, in a process of its own.

    A spawned process. Queues that cannot be given to one (`queue.Queue`, queues of a fork context)
    are read by a thread here and passed on.

    Parameters
    ----------
    log_queue
        Queue for log records of the process.
    event_queue, write_queue_size, feat_nevents, path_out, hdf5_dataset_kwargs, write_threshold
        As for `QueueWriterThread`.
    stall_timeout, frame_info, compression, threads, event_count, scalar_attributes
        As for `QueueWriterThread`.
    durability, sync_interval_s, in_place
        As for `QueueWriterThread`.
    *args, **kwargs
        For :class:`multiprocessing.Process`.

    Attributes
    ----------
    error : BaseException or None
        What ended the process before its time; `WriterDiedError` if it was killed.
    written_events, written_frames, durable_events : Counter
        Numbers handed to HDF5, and number of events that would survive a kill now; ``.value``
        raises the error of a process that failed.
    """

    _logger_name = "dcwrite.write.QueueWriterProcess"

    def __init__(
        self,
        log_queue: Any,
        event_queue: Any,
        write_queue_size: Any,
        feat_nevents: Sequence[int],
        path_out: Path | str,
        hdf5_dataset_kwargs: Mapping[str, Any] | None = None,
        write_threshold: int = 500,
        *args: Any,
        stall_timeout: float | None = None,
        frame_info: bool = True,
        compression: Any = None,
        threads: int | None = None,
        event_count: bool = False,
        scalar_attributes: bool = False,
        durability: Durability = "process",
        sync_interval_s: float = 0.0,
        in_place: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "QueueWriterProcess")
        mp_spawn.Process.__init__(self, *args, **kwargs)
        self.log_queue = log_queue
        self._set_up(
            event_queue,
            write_queue_size,
            feat_nevents,
            path_out,
            hdf5_dataset_kwargs,
            write_threshold,
            stall_timeout,
            frame_info,
            {
                "compression": compression,
                "threads": threads,
                "event_count": event_count,
                "scalar_attributes": scalar_attributes,
                "durability": durability,
                "sync_interval_s": sync_interval_s,
                "in_place": in_place,
            },
        )
        self._error_receiver, self._error_sender = mp_spawn.Pipe(duplex=False)
        self._relay: _Relay | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What the spawned process gets."""
        state = self.__dict__.copy()
        state.update(_error_receiver=None, _relay=None)
        if self._relay is not None:
            state["event_queue"] = self._relay.target
        for name in ("write_queue_size", "feat_nevents"):
            state[name] = _without_fork_lock(state[name])
        return state

    def start(self) -> None:
        """Start the process."""
        if not _can_be_spawned(self.event_queue):
            self._relay = _Relay(self.event_queue, mp_spawn.Queue(maxsize=1000))
            self._relay.start()
        try:
            super().start()
        except BaseException:
            self._stop_relay()
            raise
        self._error_sender.close()

    def run(
        self,
        buffer_dq: collections.deque[Any] | None = None,
        writer_dq: collections.deque[Any] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        """Write until all frames are written.

        Parameters
        ----------
        buffer_dq, writer_dq, logger
            As for `QueueWriterThread.run`; only in a direct call, not in the process.

        Raises
        ------
        BaseException
            The first error, if called directly.
        """
        if mp.current_process() is not self:
            self._write(buffer_dq, writer_dq, logger or self.get_logger())
            return
        logger = self.get_logger()
        logger.handlers.clear()
        handler = QueueHandler(self.log_queue) if self.log_queue else logging.NullHandler()
        logger.addHandler(handler)
        failed = False
        try:
            self._write(None, None, logger)
        except BaseException as exc:  # noqa: BLE001 - sent to the parent process
            failed = True
            logger.error("QueueWriterProcess failed: %s", exc)  # noqa: TRY400
            self._error_sender.send_bytes(_pickled(exc))
        finally:
            self._error_sender.close()
            logger.removeHandler(handler)
            for shared_queue in (self.log_queue, self.event_queue):
                _close_queue(shared_queue, wait=shared_queue is self.log_queue)
        if failed:
            sys.exit(_EXIT_FAILED)

    def check(self) -> None:
        """Raise the error with which the process ended, if it did; not that of `abort`."""
        if self.error is None and self.pid is not None and not self._closed:
            exitcode = self.exitcode
            if exitcode:
                self.error = self._receive_error(exitcode)
                _memory_of(self.write_queue_size).value = 0  # the dead may hold its lock
        super().check()

    def _receive_error(self, exitcode: int) -> BaseException:
        with suppress(EOFError, OSError, pickle.UnpicklingError):
            if self._error_receiver.poll():
                error = pickle.loads(self._error_receiver.recv_bytes())  # noqa: S301 - our child
                if isinstance(error, BaseException):
                    return error
        return WriterDiedError(
            f"'{self.path_out}': the writer process (pid {self.pid}) died with exit code "
            f"{exitcode} (negative: killed by that signal) and could not say why; "
            f"{self._frames.value} frames had been written",
            exitcode,
        )

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end.

        Raises
        ------
        BaseException
            The error with which the process ended, but not that of `abort`; `WriterDiedError` if
            it was killed.
        """
        super().join(timeout)
        if self.exitcode is not None:
            self._stop_relay()
            self.check()

    def close(self) -> None:
        """Release what belongs to the process; it has to have ended."""
        with suppress(BaseException):
            self.check()
        self._stop_relay()
        super().close()
        self._error_receiver.close()
        self._error_sender.close()

    def _stop_relay(self) -> None:
        if self._relay is not None:
            self._relay.stop()
            self._relay = None


class _Relay(threading.Thread):
    """Passes items from a queue of this process on to one that a spawned process can read."""

    def __init__(self, source: Any, target: Any) -> None:
        super().__init__(name="dcwrite-relay", daemon=True)
        self.source = source
        self.target = target
        self._stopping = threading.Event()

    def run(self) -> None:
        """Pass items on until told to stop."""
        while not self._stopping.is_set():
            try:
                item = self.source.get(timeout=0.1)
            except queue.Empty:
                continue
            while not self._stopping.is_set():
                with suppress(queue.Full):
                    self.target.put(item, timeout=0.1)
                    break

    def stop(self) -> None:
        """End the thread and the target queue."""
        self._stopping.set()
        self.join()
        _close_queue(self.target, wait=False)


def _can_be_spawned(event_queue: Any) -> bool:
    """Whether a queue can be given to a spawned process."""
    lock = getattr(event_queue, "_rlock", None)
    if lock is not None:
        return not getattr(lock, "_is_fork_ctx", False)
    return not isinstance(event_queue, (queue.Queue, queue.SimpleQueue))


def _without_fork_lock(shared: Any) -> Any:
    """The shared memory alone of a value whose lock cannot be given to a spawned process."""
    get_lock = getattr(shared, "get_lock", None)
    if get_lock is not None and getattr(get_lock(), "_is_fork_ctx", False):
        return shared.get_obj()
    return shared


def _memory_of(shared: Any) -> Any:
    """The shared memory of a value, past its lock."""
    return shared.get_obj() if hasattr(shared, "get_obj") else shared


def _close_queue(shared_queue: Any, *, wait: bool) -> None:
    """Close this process's end of a queue, if it has one."""
    if shared_queue is None or not hasattr(shared_queue, "close"):
        return
    if not wait:
        shared_queue.cancel_join_thread()
    shared_queue.close()
    if wait:
        shared_queue.join_thread()


def _pickled(exc: BaseException) -> bytes:
    """An error as bytes; one that cannot be pickled as its text."""
    try:
        data = pickle.dumps(exc)
        pickle.loads(data)  # noqa: S301 - just made
    except Exception:  # noqa: BLE001 - errors of other libraries can be anything
        return pickle.dumps(WriterDiedError(f"{type(exc).__name__}: {exc} (pid {os.getpid()})"))
    return data
