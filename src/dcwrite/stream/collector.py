"""Collector: takes frames from a queue as they come, and hands on batches in order.

Alone here: waiting, the end of the recording, aborts and stalls. It is neither a thread nor a
process; those hold one. Invariant: a batch is handed on only when all its frames are there; an
error hands on all frames that came before the one at fault, and nothing of that one.
"""

from __future__ import annotations

import collections
import ctypes
import numbers
import operator
import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import (
    AbortedError,
    DCWriteError,
    EventError,
    StallError,
    UsageError,
    WriterDiedError,
)
from ..format.chunking import best_chunk_shape
from ..format.features import FRAME_INFO_FEATURES
from .arrivals import NOTHING
from .early import EarlyFrames, size_bytes
from .packing import PackedEvents
from .recycled import RecycledMemory
from .relay import memory_of, n_waiting, runs_getter
from .runs import PackedRun
from .stash import EventStash, Schema

__all__ = ["MEMORY_BUDGET", "Batch", "Collector"]

#: Memory that the collecting may take by default.
MEMORY_BUDGET: Final = 256 * 1024**2

#: The longest time until an abort, an error of the writer, or frames without events are noticed;
#: items in the queue wake at once.
TICK_S: Final = 0.1
#: While items come, `check` is called that often: it looks at processes, which takes 10 us.
CHECK_PERIOD_S: Final = 0.02
#: For smaller batches it takes longer to look for frames that can be taken together.
LEAST_BULK_FRAMES: Final = 32
#: A batch becomes longer by that part at most to end with a whole chunk of its images.
LONGER_PART: Final = 1 / 8
#: After an error: the longest time in which frames are taken that were put before it.
REST_S: Final = 1.0
#: Frame numbers that a message lists.
LISTED_FRAMES: Final = 20


class Batch(Protocol):
    """What takes the batches: features in order, number of events, number of frames."""

    def __call__(self, events: dict[str, Any], n_events: int, n_frames: int, /) -> None:
        """Take one batch."""


class Collector:
    """Brings frames into order.

    Parameters
    ----------
    event_queue
        Has ``get(timeout=)`` that gives ``(frame_index, events)`` or raises ``queue.Empty``, or
        ``get_many(timeout)`` that gives a list of them; with ``get_runs(timeout, early)``, which
        `EventQueue` has as well, frames that are alike come as one, and early ones may stay.
    feat_nevents
        Number of events per frame, shape (frames,); -1: not known yet. Shared with those who fill
        the queue.
    write_threshold
        Frames per batch. Where more frames wait in the queue, it may have up to an eighth more, to
        end with a whole chunk of images: rows of unfinished chunks are copied twice.
    put_batch
        Takes the batches.
    check
        Called at least every 0.1 s; raises to end the collecting (abort, dead writer).
    stall_timeout
        Seconds without any news after which the missing frames are an error; None: wait.
    frame_info
        Whether to add the features "index_unmapped" and "nevents".
    memory_budget
        Bytes. Batches take no more than a quarter of it: they have fewer frames if need be, at
        least one. Frames of later batches take another quarter; what is more waits in a file.
    spool_dir
        Folder of that file, which has no name; None: the system's for temporary files.
    first_frame
        Frame to begin with; those before it are not looked at.
    nobody_is_left
        Asked when nothing comes: says why nothing will; None: that is not known.

    Raises
    ------
    UsageError
        `write_threshold` or `memory_budget` is not a positive integer, `stall_timeout` is no time,
        or `event_queue` is no queue.
    """

    def __init__(
        self,
        event_queue: Any,
        feat_nevents: Sequence[int],
        *,
        write_threshold: int,
        put_batch: Batch,
        check: Callable[[], None],
        stall_timeout: float | None = None,
        frame_info: bool = True,
        memory_budget: int = MEMORY_BUDGET,
        spool_dir: Path | str | None = None,
        first_frame: int = 0,
        nobody_is_left: Callable[[], str | None] = lambda: None,
    ) -> None:
        if isinstance(write_threshold, bool) or int(write_threshold) != write_threshold:
            raise UsageError(f"write_threshold: expected an integer, got {write_threshold!r}")
        if write_threshold < 1:
            raise UsageError(
                f"write_threshold: expected at least 1 frame per batch, got {write_threshold}"
            )
        if memory_budget < 1:
            raise UsageError(f"memory_budget: expected at least 1 byte, got {memory_budget}")
        seconds: Any = 1 if stall_timeout is None else stall_timeout
        if not isinstance(seconds, numbers.Real) or not float(seconds) > 0:
            raise UsageError(f"stall_timeout: expected seconds or None, got {stall_timeout!r}")
        in_bulk = write_threshold >= LEAST_BULK_FRAMES
        self._queue = event_queue
        self._get_items = runs_getter(event_queue, in_bulk=in_bulk)
        #: taken from the queue, and not looked at
        self._pending: collections.deque[Any] = collections.deque()
        self._batch_bytes = memory_budget // 4
        #: of one event, all features; 0: none has come yet
        self._event_bytes = 0.0
        # without its lock: who is killed may hold that for ever
        counts = memory_of(feat_nevents)
        self._is_shared = isinstance(counts, ctypes.Array)
        self._feat_nevents: Any = (
            np.ctypeslib.as_array(counts) if self._is_shared and len(counts) else counts
        )
        # slices of a shared array are lists, so that dcnum stores their numbers as int64
        is_shared = self._feat_nevents is not feat_nevents
        self._nevents_dtype = np.dtype(np.int64) if is_shared else None
        self._n_frames = len(feat_nevents)
        self._threshold = int(write_threshold)
        self._put_batch = put_batch
        self._check = check
        self._stall_timeout = stall_timeout
        self._nobody_is_left = nobody_is_left
        self._frame_info = frame_info
        self._schema = Schema()
        #: frames of later batches
        self._early = EarlyFrames(memory_budget // 4, spool_dir)
        self._next_frame = first_frame
        #: items that were taken, frames without events included
        self.n_received = 0
        self._stash: EventStash | None = None
        #: of batches that were written
        self._memory = RecycledMemory(memory_budget // 4)
        self._last_check = -np.inf
        #: after an error: the frame at fault, if there is one that others may not go past
        self._at_fault = self._n_frames
        #: events of the next batch: some more than the last one had
        self._n_expected = self._threshold
        #: events of all batches so far, and in a whole chunk of the largest feature; 1: never mind
        self._n_handed_on = 0
        self._chunk_events = 1

    def run(self, buffer: collections.deque[Any] | None = None) -> None:
        """Collect all frames.

        Parameters
        ----------
        buffer
            Items that were taken from the queue before; it is emptied.

        Raises
        ------
        EventError
            A frame does not fit.
        StallError
            Frames did not come within `stall_timeout`.
        DCWriteError
            What `check` raised.
        """
        try:
            for item in _drain(buffer):
                self._receive(item)
            while self._next_frame < self._n_frames:
                self._collect_batch()
            self._refuse_rest()
        except EventError:
            self._save_leading(self._at_fault)
            raise
        except (AbortedError, WriterDiedError):
            self._save_leading(self._n_frames)
            raise
        except BaseException:
            self._save_leading(0)
            raise
        finally:
            self._early.close()

    def _collect_batch(self) -> None:
        stash = self._begin_batch()
        last_news = time.monotonic()
        n_unknown = -1
        while True:
            self._add_early(stash, *self._extend(stash))
            if stash.is_complete():
                break
            if self._receive_some():
                last_news = time.monotonic()
                continue
            if not stash.is_final:
                counts = self._counts(stash.index_offset)
                self._refuse_impossible(stash.index_offset, counts)
                unknown = int((counts < 0).sum())
                if unknown != n_unknown:
                    n_unknown = unknown
                    last_news = time.monotonic()
            self._refuse_stall(last_news, lambda: self._awaited_frames(stash))
        self._hand_on(stash.batch, stash, stash.num_frames)
        self._stash = None
        self._next_frame = stash.index_offset + stash.num_frames

    def _begin_batch(self) -> EventStash:
        """A batch without frames; they are added as their counts become known."""
        first = self._next_frame
        counts = self._counts(first)
        if counts.dtype.kind not in "iu":
            raise EventError(
                f"feat_nevents: expected one integer per frame, got dtype {counts.dtype}"
            )
        self._refuse_impossible(first, counts)
        self._stash = EventStash(
            first,
            [],
            schema=self._schema,
            memory=self._memory,
            n_expected=self._n_expected,
            is_final=False,
        )
        return self._stash

    @staticmethod
    def _refuse_impossible(first: int, counts: npt.NDArray[Any]) -> None:
        if (counts < -1).any():
            frame = first + int(np.argmin(counts))
            raise EventError(
                f"feat_nevents, frame {frame}: expected a number of events, or -1 for a frame "
                f"that was not processed yet, got {int(counts.min())}"
            )

    def _extend(self, stash: EventStash) -> tuple[int, int]:
        """Add the frames whose counts, and those of all before, are known, to the batch.

        Returns
        -------
        start, stop
            Those frames; they may have come before.
        """
        start = frame = stash.index_offset + stash.num_frames
        stop = min(stash.index_offset + self._threshold, self._n_frames)
        if stash.is_final:
            return start, start
        # as long as no event has come, nobody knows how many fit
        knows_size = bool(self._event_bytes)
        most = self._batch_bytes / self._event_bytes if knows_size else 0.0
        counts: list[int] = []
        size = stash.size
        is_full = False
        while frame < stop and not is_full:
            count = int(self._feat_nevents[frame])
            if count < 0 or (count and not knows_size):
                break
            if size + count > most and frame > stash.index_offset and knows_size:
                is_full = True
                break
            counts.append(count)
            size += count
            frame += 1
        is_final = is_full or frame == stop
        if frame == stop:
            n_awaited = stash.n_missing + sum(count > 0 for count in counts)
            more = self._until_whole_chunk(stop, size, n_awaited)
            counts += more
            frame += len(more)
        if is_final or (counts and knows_size):
            stash.extend(counts, is_final=is_final)
            return start, frame
        return start, start

    def _until_whole_chunk(self, first: int, n_events: int, n_awaited: int) -> list[int]:
        """Counts of frames that complete a chunk, if they are few and are there; else none.

        Parameters
        ----------
        first
            The first of these frames.
        n_events
            Events of the batch before them.
        n_awaited
            Frames of the batch before them that have to come.
        """
        counts: list[int] = []
        missing = -(self._n_handed_on + n_events) % self._chunk_events
        while missing > 0 and len(counts) < self._chunk_events:
            frame = first + len(counts)
            count = int(self._feat_nevents[frame]) if frame < self._n_frames else -1
            if count < 0:
                break
            counts.append(count)
            missing -= count
        if missing or not counts:
            return []
        # not to wait for frames that come later, if ever
        n_there = len(self._early) + len(self._pending) + n_waiting(self._queue)
        return counts if n_there >= n_awaited + sum(count > 0 for count in counts) else []

    def _add_early(self, stash: EventStash, start: int, stop: int) -> None:
        if start < stop and len(self._early):
            for frame in self._early.in_range(start, stop):
                self._at_fault = frame
                stash.add_events(frame, self._early.pop(frame))

    def _awaited_frames(self, stash: EventStash) -> list[int]:
        """Frames of the batch that have not come, those without a count included."""
        first = stash.index_offset + stash.num_frames
        frames = stash.missing_frames()
        if not stash.is_final:
            counts = self._counts(stash.index_offset)[stash.num_frames :]
            expected = (np.flatnonzero(counts != 0) + first).tolist()
            frames += [frame for frame in expected if frame not in self._early]
        return frames

    def _counts(self, first: int) -> npt.NDArray[Any]:
        """Number of events of the next frames; -1: not known yet."""
        counts = np.array(self._feat_nevents[first : first + self._threshold])
        # "nevents" is stored with this dtype; shared arrays are made of Python's integers
        return counts.astype(np.int64) if self._is_shared else counts

    def _receive_some(self) -> bool:
        """Take what is there, as far as the batch needs it; False: nothing came within a tick."""
        pending = self._pending
        if not pending:
            now = time.monotonic()
            if now - self._last_check > CHECK_PERIOD_S:
                self._check()
                self._last_check = now
            try:
                pending.extend(self._get_items(TICK_S - CHECK_PERIOD_S, self._without_place()))
            except queue.Empty:
                self._last_check = -np.inf
                return False
        stash = self._stash
        while pending:
            item = pending.popleft()
            if type(item) is PackedRun:
                self._receive_run(item)
            elif stash is None or not self._receive_alike(stash, item):
                self._receive(item)
            if stash is not None and stash.is_complete():
                break
        return True

    def _without_place(self) -> range:
        """Frames that will have no place in the batch.

        The one that follows those with known counts will have one: its own count is known as soon
        as it comes.
        """
        stash = self._stash
        if stash is None:
            return NOTHING
        first = stash.index_offset + stash.num_frames
        if not self._event_bytes:
            # the first frame with events tells how large they are; nobody knows how long it takes
            # until that comes if many have none
            counts = self._counts(first)
            if not counts.any():
                return NOTHING
            first += int(np.argmax(counts != 0))
            if first in self._early:
                return NOTHING  # it came, and had none
        return range(first + (not stash.is_final), self._n_frames)

    def _receive_run(self, run: PackedRun) -> None:
        """Take frames that are like each other, one by one where the batch does not fit them."""
        stash = self._stash
        reserved = self._frame_info and run.layout.reserved
        n_taken = 0
        while n_taken < len(run):
            n_added = 0
            if stash is not None and not reserved:
                n_added = stash.add_run(run.part(n_taken))
            if n_added:
                self.n_received += n_added
            else:
                self._receive(run.part(n_taken).first_item())
            n_taken += max(1, n_added)
            if stash is not None and stash.is_complete() and n_taken < len(run):
                self._pending.appendleft(run.part(n_taken))
                return

    def _receive_alike(self, stash: EventStash, item: Any) -> bool:
        """Take a frame of the batch that is like those before it; False: look at it closely."""
        if type(item) is not tuple or len(item) != 2 or type(item[1]) is not PackedEvents:
            return False
        frame, events = item
        if self._frame_info and events.layout.reserved:
            return False
        if not stash.add_packed(frame, events):
            if stash.is_final or frame < stash.index_offset + stash.num_frames:
                return False
            come_in = self._extend(stash)
            is_added = stash.add_packed(frame, events)
            self.n_received += is_added
            self._add_early(stash, *come_in)
            return is_added
        self.n_received += 1
        return True

    def _receive(self, item: Any) -> None:
        self._at_fault = self._n_frames
        frame, events = self._unpack(item)
        self.n_received += 1
        if not events and (frame < self._next_frame or self._feat_nevents[frame] == 0):
            return
        if frame < self._next_frame:
            if self._feat_nevents[frame]:
                raise EventError(
                    f"frame {frame}: expected each frame once, got it again after it was written"
                )
            # frames without events are not waited for: empty arrays may come late
            self._at_fault = frame
            EventStash(frame, [0]).add_events(frame, events)
            return
        if not self._event_bytes and events:
            n_events = max(1, int(self._feat_nevents[frame]))
            self._event_bytes = max(1.0, size_bytes(events, object_bytes=0) / n_events)
        if events and self._frame_info and (taken := _reserved(events)):
            raise EventError(
                f"frame {frame}: expected features without {taken}, which the writer "
                f"adds; leave them out or pass frame_info=False"
            )
        stash = self._stash
        come_in = (0, 0)
        if stash is not None and frame >= stash.index_offset + stash.num_frames:
            come_in = self._extend(stash)
        if frame in self._early and (events or self._early.has_events(frame)):
            raise EventError(
                f"frame {frame}: expected each frame once, got it again; the events that came "
                f"first were kept"
            )
        if stash is not None and frame < stash.index_offset + stash.num_frames:
            self._at_fault = frame
            stash.add_events(frame, events)
        else:
            self._early.add(frame, events)
        if stash is not None:
            self._add_early(stash, *come_in)

    def _unpack(self, item: Any) -> tuple[int, Any]:
        if isinstance(item, EventError):  # it could not be unpickled
            raise item
        try:
            index, events = item
            frame = operator.index(index)
        except (TypeError, ValueError) as exc:
            raise EventError(
                f"event queue: expected items (frame_index, events), got {str(item)[:80]!r}"
            ) from exc
        if not 0 <= frame < self._n_frames:
            raise EventError(
                f"frame {frame}: expected a frame index from 0 to {self._n_frames - 1} "
                f"(feat_nevents has {self._n_frames} frames), got {frame}"
            )
        if events is not None and not isinstance(events, Mapping):
            raise EventError(
                f"frame {frame}: expected a dict of arrays or None, got {type(events).__name__}"
            )
        return frame, events

    def _hand_on(self, events: dict[str, Any], stash: EventStash, n_frames: int) -> None:
        n_events = int(stash.nev_idx[n_frames - 1]) if n_frames else 0
        batch = dict(events)
        if self._frame_info:
            indices = stash.indices_for_data[:n_events]
            dtype = self._nevents_dtype or self._counts(stash.index_offset).dtype
            counts = np.asarray(stash.feat_nevents, dtype=dtype)
            batch["index_unmapped"] = indices
            batch["nevents"] = counts[indices - stash.index_offset]
        self._n_expected = stash.size + stash.size // 8
        if n_events:
            self._event_bytes = size_bytes(events, object_bytes=0) / n_events
            self._chunk_events = self._events_of_chunk(events)
        self._n_handed_on += n_events
        self._put_batch(batch, n_events, n_frames)

    def _events_of_chunk(self, events: Mapping[str, Any]) -> int:
        """Events in a chunk of the largest feature; 1: so many that no batch is made to fit."""
        arrays = [value for value in events.values() if hasattr(value, "nbytes")]
        largest = max(arrays, key=lambda array: array.nbytes, default=np.empty(0))
        n_events = best_chunk_shape(largest.shape[1:], largest.dtype)[0]
        return n_events if n_events <= self._threshold * LONGER_PART else 1

    def _save_leading(self, stop: int) -> None:
        """After an error: hand on the frames before the first one that is missing.

        Parameters
        ----------
        stop
            Frames before this one may stand in the queue, put there before the error.
        """
        seconds_left = REST_S if stop else 0.0
        while True:
            stash = self._stash
            with suppress(DCWriteError):
                stash = stash or self._begin_batch()
                self._extend(stash)
            if stash is None:
                return
            if seconds_left > 0:
                start = time.monotonic()
                self._take_rest_of(stash, stop, start + seconds_left)
                seconds_left -= time.monotonic() - start
            first = stash.index_offset
            for frame in self._early.in_range(first, first + stash.num_frames):
                with suppress(DCWriteError):
                    stash.add_events(frame, self._early.pop(frame))
            n_frames, events = stash.take_leading()
            if n_frames:
                self._hand_on(events, stash, n_frames)
            self._next_frame = first + n_frames
            is_all = stash.is_complete() and n_frames == stash.num_frames
            if not is_all or self._next_frame >= self._n_frames:
                return
            self._stash = None

    def _take_rest_of(self, stash: EventStash, stop: int, deadline: float) -> None:
        """Take frames before `stop` out of the queue until a batch is complete."""
        longest = self._threshold + self._chunk_events
        later = range(min(stash.index_offset + longest, self._n_frames), self._n_frames)
        while not stash.is_complete() and time.monotonic() < deadline:
            if not self._pending:
                try:
                    self._pending.extend(self._get_items(0, later))
                except WriterDiedError:
                    continue  # another one; each is told once
                except Exception:  # noqa: BLE001 - nothing is left; the first error matters more
                    return
                if not self._pending:
                    return
            item = self._pending.popleft()
            for single in item.items() if type(item) is PackedRun else [item]:
                with suppress(DCWriteError):
                    if self._unpack(single)[0] < stop:
                        self._receive(single)

    def _refuse_stall(self, last_news: float, missing: Callable[[], list[int]]) -> None:
        reason = self._nobody_is_left()
        if reason is None:
            if self._stall_timeout is None or time.monotonic() - last_news < self._stall_timeout:
                return
            reason = f"no news for {self._stall_timeout} s (stall_timeout)"
        frames = missing()
        listed = ", ".join(map(str, frames[:LISTED_FRAMES]))
        more = f" and {len(frames) - LISTED_FRAMES} more" if len(frames) > LISTED_FRAMES else ""
        raise StallError(
            f"{reason}, and still missing frames {listed}{more}; look for the worker that had "
            f"them (what came before was written)",
            frames,
        )

    def _refuse_rest(self) -> None:
        """What is left in the queue may only be frames without events."""
        while True:
            while self._pending:
                item = self._pending.popleft()
                for single in item.items() if type(item) is PackedRun else [item]:
                    self._receive(single)
            try:
                self._pending.extend(self._get_items(0, NOTHING))
            except (queue.Empty, OSError, ValueError, UsageError, WriterDiedError):
                return  # nothing is left, the queue was closed, or half an item was left there


def _reserved(events: Mapping[str, Any]) -> list[str]:
    """Features of the events whose names are ours."""
    if isinstance(events, PackedEvents):
        return events.layout.reserved
    return sorted(events.keys() & set(FRAME_INFO_FEATURES))


def _drain(buffer: collections.deque[Any] | None) -> Iterable[Any]:
    while buffer:
        yield buffer.popleft()
