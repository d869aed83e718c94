"""EventQueue: how events travel from worker processes to a queue writer, in shared memory.

Alone here: what callers see of it. Invariant: an item comes out whole or not at all; no process
waits for one that has died; who dies takes nothing with it but its own lane, which the next gets.

Every process that puts has a lane of the memory to itself, so there is no lock between processes.
A lane is a ring of bytes. A record is written first and announced then, by a message of 40 bytes
in a pipe that all share, which wakes the reader. The reader gives memory back by moving the lane's
tail. A producer without room says in the same pipe how much it needs, and sleeps on the lane's own
pipe until the reader has given back that much. (`lanes`: what is shared; `producer` and `reader`:
the two sides; `packing`: what is in a record; `peers`: what the operating system does.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from multiprocessing import context
from typing import Any

from .arrivals import NOTHING
from .lanes import Lanes, Word, deadline_of
from .producer import Producer
from .reader import Items, Reader

__all__ = ["EventQueue"]


class EventQueue:
    """Queue of events for many producers and one reader, bounded, in shared memory.

    Takes the place of a multiprocessing queue as `event_queue` of the queue writers. It is given
    to processes as an argument when they are started, as a multiprocessing queue is. Threads of
    one process may put at the same time. `put` waits while the memory is full.

    Parameters
    ----------
    capacity_bytes
        Size of the memory, and of the largest item. It is taken from the system as it is used. The
        default (32 MiB) holds some 1000 full events, in equal shares for all `producers`; larger
        ones bridge longer stalls of the disk, and are a little slower, since nothing of them stays
        in the processor's cache.
    producers
        Number of processes that put at the same time, each of which has its share of the memory;
        default: 8 more than this computer has cores, at least 16.

    Raises
    ------
    UsageError
        The capacity is too small for the number of producers, or that number is not from 1 to
        255.
    """

    def __init__(
        self, capacity_bytes: int = 32 * 1024**2, *, producers: int | None = None
    ) -> None:
        self._lanes = Lanes(int(capacity_bytes), producers)
        self._begin()

    def _begin(self) -> None:
        """State of this process; one that was forked must not have that of its parent."""
        self._pid = os.getpid()
        self._producer = Producer(self._lanes)
        self._reader = Reader(self._lanes)

    def _begin_if_forked(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    def __getstate__(self) -> Lanes:
        """What a spawned process gets."""
        context.assert_spawning(self)
        return self._lanes

    def __setstate__(self, state: Lanes) -> None:
        """Open the queue in the spawned process."""
        self._lanes = state
        self._begin()

    @property
    def capacity_bytes(self) -> int:
        """Size of the memory."""
        return self._lanes.capacity_bytes

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item; when this returns, the reader gets it, whatever becomes of this process.

        Parameters
        ----------
        item
            ``(frame_index, events)``; `events` is a dict of arrays whose first axis is the event,
            or None. Anything else that can be pickled is passed on as it is.
        block, timeout
            Whether to wait for room, and for how many seconds at most.

        Raises
        ------
        queue.Full
            There was no room in time.
        DataError
            The item is larger than the whole memory.
        ClosedError
            The queue was closed here, or by its reader.
        WriterDiedError
            There was no room, and the process that reads has died.
        UsageError
            There are more producers than announced.
        """
        self._begin_if_forked()
        self._producer.put(item, deadline_of(block, timeout))

    def put_nowait(self, item: Any) -> None:
        """Put an item if there is room, as ``put(item, block=False)``."""
        self.put(item, block=False)

    def put_batch(
        self,
        first_frame: int,
        nevents: Sequence[int],
        events: Mapping[str, Any],
        block: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Put the events of several frames at once.

        Parameters
        ----------
        first_frame
            Index of the first frame; the others follow without gaps.
        nevents
            Number of events of each frame, shape (frames,). Frames without events are not put.
        events
            Feature names to arrays with the events of all frames, one behind the other.
        block, timeout
            As for `put`. What is larger than this process's share of the memory goes in parts, for
            each of which the timeout counts.

        Raises
        ------
        EventError
            A feature does not have as many events as `nevents` says; nothing was put.
        queue.Full, DataError, ClosedError, WriterDiedError, UsageError
            As for `put`.
        """
        self._begin_if_forked()
        self._producer.put_batch(first_frame, nevents, events, block, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item.

        Parameters
        ----------
        block, timeout
            Whether to wait for an item, and for how many seconds at most.

        Returns
        -------
        tuple
            ``(frame_index, events)`` as it was put; the frames of `put_batch` one by one.

        Raises
        ------
        queue.Empty
            There was none in time.
        WriterDiedError
            A producer died in the middle of an item. What the others put can still be taken.
        ClosedError
            The queue was closed here.
        UsageError
            Another process is the reader.
        """
        self._begin_if_forked()
        return self._reader.get(deadline_of(block, timeout))

    def get_nowait(self) -> Any:
        """Take the next item if there is one, as ``get(block=False)``."""
        return self.get(block=False)

    def get_many(self, timeout: float | None = None) -> Items:
        """Take what is there, at least one item.

        Parameters
        ----------
        timeout
            Seconds to wait for the first item; None: no limit.

        Returns
        -------
        list of (int, PackedEvents or dict or None)
            In the order of each producer. `PackedEvents` are views of the queue's memory, which
            the next call of `get`, `get_many` or `close` takes back; their ``copy()`` stays.

        Raises
        ------
        queue.Empty, WriterDiedError, ClosedError, UsageError
            As for `get`.
        """
        self._begin_if_forked()
        return self._reader.get_many(deadline_of(block=True, timeout=timeout))

    def get_runs(self, timeout: float | None = None, early: range = NOTHING) -> Items:
        """Take what is there, frames that are alike together, as the queue writers do.

        Parameters
        ----------
        timeout
            As for `get_many`.
        early
            Frames that may stay in the queue, as long as it has room for them and others come, or
            the timeout has not passed; without one, that may be for ever.

        Returns
        -------
        list
            As `get_many`; and `PackedRun` for many frames at once, and an `EventError` for an item
            that cannot be unpickled. It is empty when only frames came that stay.

        Raises
        ------
        queue.Empty, WriterDiedError, ClosedError, UsageError
            As for `get`.
        """
        self._begin_if_forked()
        return self._reader.get_runs(deadline_of(block=True, timeout=timeout), early)

    def empty(self) -> bool:
        """Whether there is nothing to get; no more than a guess while others put."""
        self._begin_if_forked()
        self._lanes.check_open()
        return self._reader.empty()

    def qsize(self) -> int:
        """Count the frames that were put and not taken; no more than a guess while others put."""
        self._begin_if_forked()
        self._lanes.check_open()
        words = self._lanes.words
        firsts = [self._lanes.words_of(lane) for lane in range(len(self._lanes.wakers))]
        waiting = sum(words[ii + Word.N_PUT] - words[ii + Word.N_TAKEN] for ii in firsts)
        return max(0, waiting) + self._reader.n_ready

    def close(self) -> None:
        """End the use of the queue in this process.

        If this process is the reader, those who put get a `ClosedError`. What a producer has put
        before can still be read.
        """
        self._begin_if_forked()
        lanes = self._lanes
        if lanes.is_closed:
            return
        lanes.is_closed = True  # from here on, who wakes up in this process gives up
        if self._reader.is_attached:
            lanes.words[Word.CLOSED] = 1
            lanes.wake_all()
        self._producer.close()
        self._reader.close()

    def refuse(self) -> None:
        """Tell those who put that nobody reads any more: they get a `ClosedError`.

        For a reader that fails before its first item, and for who has started it.
        """
        if not self._lanes.is_closed:
            self._lanes.words[Word.CLOSED] = 1
            self._lanes.wake_all()

    def join_thread(self) -> None:
        """Do nothing: what `put` has taken is where the reader finds it."""

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread to wait for."""
