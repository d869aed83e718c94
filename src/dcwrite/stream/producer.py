"""Producer: the side of an event queue that puts.

Alone here: where a record goes in a lane, and what a producer waits for. Invariant: a record is
announced after it was written; whoever waits for room wakes when the reader dies or closes.
"""

from __future__ import annotations

import itertools
import math
import operator
import os
import pickle
import queue
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError, EventError, UsageError, WriterDiedError
from .lanes import (
    MESSAGE,
    NEWS,
    Kind,
    Lanes,
    Word,
    aligned,
    deadline_of,
    lock_timeout,
    seconds_left,
)
from .packing import Layout, MisfitError, Spec, analyse, compacted
from .peers import Peer, wait
from .repeats import Repeats

__all__ = ["Producer"]

#: More layouts than that: pickled, as if they had none.
_MOST_LAYOUTS: Final = 1000
#: What is larger than a lane goes in parts of this share of it.
_PARTS_PER_LANE: Final = 4
#: Who waits for a lane looks that often whether there can be one.
_LOOK_PERIOD_S: Final = 0.2


class _OwnLane:
    """The lane that this process writes to."""

    __slots__ = (
        "_fresh", "_repeats", "base", "floor", "head", "layout_numbers", "number", "sequence",
        "unsettled", "usual", "words",
    )  # fmt: skip

    def __init__(self, number: int, lanes: Lanes) -> None:
        self.number = number
        self.words = lanes.words_of(number)
        self.base = lanes.start_of(number)
        #: positions count bytes and never wrap: the next record begins here
        self.head = 0
        #: all before was given back, whatever the tail says
        self.floor = 0
        self.sequence = 0
        #: an item was given up, and the reader does not know that yet
        self.unsettled = False
        self.layout_numbers: dict[Layout, int] = {}
        #: the layout of the last item and its number, if it was a single event that fits in here
        self.usual: tuple[Layout, int] | None = None
        #: of the features whose values are shared, by name
        self._repeats: dict[str, Repeats] = {}
        #: numbers of shared values that no owner of any lane has had
        n_owners = lanes.words[self.words + Word.N_OWNERS] & 0xFFFF
        self._fresh = itertools.count((number << 48 | n_owners << 32) + 1)

    def repeats_of(self, name: str) -> Repeats:
        """Those of a feature whose values are shared."""
        found = self._repeats.get(name)
        if found is None:
            found = self._repeats[name] = Repeats(self._fresh)
        return found

    def forget_values(self) -> None:
        """An item was given up, which the reader will be told: it forgets all values."""
        for repeats in self._repeats.values():
            repeats.forget()


class _TimedLock:
    """A lock that is taken until a deadline; else the queue counts as full."""

    __slots__ = ("_deadline", "_lock")

    def __init__(self, lock: threading.Lock, deadline: float) -> None:
        self._lock = lock
        self._deadline = deadline

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=lock_timeout(self._deadline)):
            raise queue.Full

    def __exit__(self, *error: object) -> None:
        self._lock.release()


class Producer:
    """The side of a queue that puts, in one process; for any number of threads.

    Parameters
    ----------
    lanes
        What the processes share.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._lane: _OwnLane | None = None
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._layouts_by_spec: dict[Spec, Layout] = {}
        #: features whose values are not shared: they do not repeat
        self._plain: set[str] = set()
        self._reader: Peer | None = None

    def put(self, item: Any, deadline: float | None) -> None:
        """Put an item; see `EventQueue.put`."""
        with self._turn(deadline):
            self._begin_turn(deadline)
            if self._put_alike(item, deadline):
                return
            try:
                index, events = item
                frame = operator.index(index)
            except (TypeError, ValueError):
                self._send_pickled(0, item, deadline)
                return
            if events is None:
                self._send(Kind.NONE, frame, 0, None, deadline)
            elif not isinstance(events, Mapping) or not self._send_events(frame, events, deadline):
                self._send_pickled(frame, (index, events), deadline)

    def _put_alike(self, item: Any, deadline: float | None) -> bool:
        """Put a single event that is like the one before; False: it is not, or it has to wait.

        Most items are put here. It is the general way without what they do not need.
        """
        lanes, lane = self._lanes, self._lane
        if lane is None or lane.usual is None or type(item) is not tuple or len(item) != 2:
            return False
        layout, number = lane.usual
        frame, events = item
        if type(frame) is not int or type(events) is not dict or tuple(events) != layout.keys:
            return False
        try:
            values, n_events = layout.take(events)
        except MisfitError:
            return False
        if n_events != 1:
            return False
        size_bytes = aligned(layout.block_bytes(1))
        start, needed = self._place_for(size_bytes)
        if self._given_back() < needed or not self._has_known_values(lane, layout, values):
            return False
        words, first_word = lanes.words, lane.words
        lane.sequence += 1
        words[first_word + Word.BEGUN] = lane.sequence
        try:
            layout.pack(values, 1, lanes.memory, lane.base + start % lanes.lane_bytes)
            lane.head = start + size_bytes
            message = self._message(Kind.PACKED, frame, size_bytes, number, 1, 1)
            self._announce(message, deadline)
        except MisfitError:
            self._take_back_turn()
            return False
        except BaseException:
            self._give_up()
            raise
        words[first_word + Word.N_PUT] += 1
        return True

    def put_batch(
        self,
        first_frame: int,
        nevents: Sequence[int],
        events: Mapping[str, Any],
        block: bool,
        timeout: float | None,
    ) -> None:
        """Put the events of several frames; see `EventQueue.put_batch`."""
        counts = np.asarray(nevents)
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise EventError(
                f"nevents: expected non-negative integers of shape (frames,), got shape "
                f"{counts.shape} and dtype {counts.dtype}"
            )
        if not -(2**63) <= first_frame <= 2**63 - len(counts):
            raise EventError(
                f"first_frame: expected frame indices of 64 bits, got {first_frame} and "
                f"{len(counts)} frames"
            )
        total = int(counts.sum())
        for feat, value in events.items():
            parts = value.items() if isinstance(value, Mapping) else [("", value)]
            for name, array in parts:
                if len(array) != total:
                    raise EventError(
                        f"frames {first_frame} to {first_frame + len(counts) - 1}, feature "
                        f"'{f'{feat}/{name}' if name else feat}': expected {total} events "
                        f"(the sum of nevents), got {len(array)}"
                    )
        if total:
            self._put_frames(first_frame, counts.astype(np.int64), events, block, timeout)

    def close(self) -> None:
        """Give the lane up; a put that waits has been woken before."""
        lanes = self._lanes
        if self._lane is not None:
            lanes.wake(self._lane.number)
        with self._lock:
            if self._lane is not None:
                lanes.words[self._lane.words + Word.OWNER] = 0
                if not lanes.pipe.send(self._message(Kind.BYE)):  # it is full
                    lanes.words[self._lane.words + Word.LEFT] = 1
                self._lane = None
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def _put_frames(
        self,
        first: int,
        counts: npt.NDArray[np.int64],
        events: Mapping[str, Any],
        block: bool,
        timeout: float | None,
    ) -> None:
        if len(counts) == 1:
            self.put((first, dict(events)), deadline_of(block, timeout))
            return
        known = self._layouts.get(tuple(events))
        if self._put_block(known, first, counts, events, block, timeout):
            return
        found = analyse(events)
        layout = self._layout(found[0]) if found else None
        if layout is not known and self._put_block(layout, first, counts, events, block, timeout):
            return
        half = len(counts) // 2
        stop = int(counts[:half].sum())
        if stop:
            self._put_frames(first, counts[:half], _sliced(events, slice(stop)), block, timeout)
        if counts[half:].any():
            rest = _sliced(events, slice(stop, None))
            self._put_frames(first + half, counts[half:], rest, block, timeout)

    def _put_block(
        self,
        layout: Layout | None,
        first: int,
        counts: npt.NDArray[np.int64],
        events: Mapping[str, Any],
        block: bool,
        timeout: float | None,
    ) -> bool:
        """Put the events of several frames as one block; False: they do not fit, none was put.

        They do not, either, if they bring so many shared values that others had to wait long.
        """
        if layout is None or layout.rest:
            return False
        if layout.block_bytes(int(counts.sum())) + counts.nbytes > self._lanes.lane_bytes:
            return False
        self._layouts[layout.keys] = layout
        deadline = deadline_of(block, timeout)
        with self._turn(deadline):
            self._begin_turn(deadline)
            try:
                self._send_packed(Kind.BATCH, first, layout, events, deadline, counts)
            except MisfitError:
                return False
        return True

    # -----------------------------------------------------------------------------------------
    # turn and lane

    def _turn(self, deadline: float | None) -> threading.Lock | _TimedLock:
        """For `with`: one thread at a time puts.

        The lock itself, where there is no deadline: an interrupt never leaves that taken.
        """
        return self._lock if deadline is None else _TimedLock(self._lock, deadline)

    def _begin_turn(self, deadline: float | None) -> None:
        """See to an open queue, and a lane of our own."""
        self._lanes.check_open()
        if self._lane is None:
            self._claim_lane(deadline)
        elif self._lane.unsettled:
            self._announce(self._message(Kind.RETRACT), deadline)
            self._lane.unsettled = False

    def _claim_lane(self, deadline: float | None) -> None:
        lanes = self._lanes
        while not (token := lanes.tokens.receive()):
            self._refuse_if_all_lanes_are_in_use()
            if not lanes.words[Word.WANTED]:  # once is enough, also for who asks all the time
                lanes.words[Word.WANTED] = 1
                lanes.pipe.send(NEWS)
            self._sleep([lanes.tokens.reader], deadline, at_most=_LOOK_PERIOD_S)
        lane = self._lane = _OwnLane(token[0], lanes)
        lanes.words[lane.words + Word.OWNER] = self._pid
        try:
            self._announce(self._message(Kind.HELLO, self._pid), deadline)
        except BaseException:
            self._lane = None
            lanes.words[lane.words + Word.OWNER] = 0
            lanes.tokens.send(token)
            raise

    def _refuse_if_all_lanes_are_in_use(self) -> None:
        lanes = self._lanes
        n_lanes = len(lanes.wakers)
        for number in range(n_lanes):
            pid = lanes.words[lanes.words_of(number) + Word.OWNER]
            if not pid:
                return  # it was given up, and the reader has not come to that yet
            peer = Peer(pid)
            try:
                if peer.has_ended():
                    return
            finally:
                peer.close()
        raise UsageError(
            f"event queue: expected at most {n_lanes} processes that put at the same time, got "
            f"one more; pass producers=... with their number to EventQueue"
        )

    # -----------------------------------------------------------------------------------------
    # what is sent

    def _send_events(self, frame: int, events: Mapping[str, Any], deadline: float | None) -> bool:
        """Send events as a block; False: they cannot be packed."""
        layout = self._layouts.get(tuple(events))
        if layout is not None:
            try:
                self._send_packed(Kind.PACKED, frame, layout, events, deadline)
            except MisfitError:
                pass
            else:
                return True
        found = analyse(events)
        layout = self._layout(found[0]) if found else None
        if layout is None:
            return False
        self._layouts[layout.keys] = layout
        self._send_packed(Kind.PACKED, frame, layout, events, deadline)
        return True

    def _layout(self, spec: Spec) -> Layout | None:
        spec = compacted(spec, self._lanes.lane_bytes // _PARTS_PER_LANE, self._plain)
        layout = self._layouts_by_spec.get(spec)
        if layout is None and len(self._layouts_by_spec) < _MOST_LAYOUTS:
            layout = self._layouts_by_spec[spec] = Layout(spec)
        return layout

    def _send_packed(
        self,
        kind: int,
        frame: int,
        layout: Layout,
        events: Mapping[str, Any],
        deadline: float | None,
        counts: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Send a block; raises `MisfitError` if the events do not have this layout."""
        lane = self._lane
        assert lane is not None
        values, n_events = layout.take(events)
        if counts is None:  # how it is packed does not decide whether an item is too large
            self._refuse_too_large(frame, n_events * layout.event_bytes)
        new_ones = [
            lane.repeats_of(array.name).new_ones(values[array.place]) for array in layout.shared
        ]
        if counts is not None and self._is_much(layout, new_ones):
            raise MisfitError
        after = b""
        if counts is not None:
            after = counts.tobytes()
        elif layout.rest:
            after = pickle.dumps({feat: events[feat] for feat in layout.rest}, protocol=5)
        number = lane.layout_numbers.get(layout)
        if number is None:
            spec = pickle.dumps(layout.spec, protocol=5)
            number = len(lane.layout_numbers)
            self._send(Kind.LAYOUT, 0, len(spec), _copier(spec), deadline, number)
            lane.layout_numbers[layout] = number
        block_bytes = layout.block_bytes(n_events)
        self._share_values(lane, layout, values, new_ones, deadline)

        def fill(memory: Any, offset: int) -> None:
            layout.pack(values, n_events, memory, offset)
            if after:
                memory[offset + block_bytes : offset + block_bytes + len(after)] = after

        n_frames = 1 if counts is None else len(counts)
        n_bytes = block_bytes + len(after)
        self._send(kind, frame, n_bytes, fill, deadline, number, n_events, n_frames)
        is_usual = (
            kind == Kind.PACKED
            and n_events == 1
            and not after
            and n_bytes <= self._lanes.lane_bytes
            # else `_share_values` has just forgotten all layouts: the next one will be another
            and layout.keys in self._layouts
        )
        lane.usual = (layout, number) if is_usual else None

    @staticmethod
    def _has_known_values(lane: _OwnLane, layout: Layout, values: list[Any]) -> bool:
        """Put numbers in the place of shared values of a single event; False: one is new."""
        found: list[Any] = []
        for array in layout.shared:
            number = lane.repeats_of(array.name).again(values[array.place])
            if number is None:
                return False
            found.append(number)
        for array, number in zip(layout.shared, found, strict=True):
            values[array.place] = number
        return True

    def _is_much(self, layout: Layout, new_ones: list[list[int]]) -> bool:
        """Whether new values, which the reader keeps beside the queue, take much room."""
        n_bytes = 0
        for array, events in zip(layout.shared, new_ones, strict=True):
            n_bytes += (len(events) - 1) * math.prod(array.item_shape) * array.dtype.itemsize
        return n_bytes > self._lanes.lane_bytes // _PARTS_PER_LANE

    def _share_values(
        self,
        lane: _OwnLane,
        layout: Layout,
        values: list[Any],
        new_ones: list[list[int]],
        deadline: float | None,
    ) -> None:
        """Put numbers in the place of shared values; new ones are sent."""

        def send(number: int, data: bytes) -> None:
            self._send(Kind.VALUE, number, len(data), _copier(data), deadline, 0, len(data))

        for array, events in zip(layout.shared, new_ones, strict=True):
            repeats = lane.repeats_of(array.name)
            values[array.place] = repeats.numbers(values[array.place], events, send)
            if not repeats.is_worth_it:
                self._plain.add(array.name)
                self._layouts.clear()

    def _send_pickled(self, frame: int, item: Any, deadline: float | None) -> None:
        data = pickle.dumps(item, protocol=5)
        self._send(Kind.PICKLE, frame, len(data), _copier(data), deadline)

    def _send(
        self,
        kind: int,
        frame: int,
        n_bytes: int,
        fill: Callable[[Any, int], None] | None,
        deadline: float | None,
        layout: int = 0,
        n_events: int = 0,
        n_frames: int = 1,
    ) -> None:
        """Write a record and announce it; who dies before the end dies in the middle of it."""
        lanes, lane = self._lanes, self._lane
        assert lane is not None
        self._refuse_too_large(frame, n_bytes)
        lane.sequence += 1
        lanes.words[lane.words + Word.BEGUN] = lane.sequence
        try:
            if fill is None:
                self._announce(self._message(kind, frame), deadline)
            elif n_bytes <= lanes.lane_bytes:
                size_bytes = aligned(n_bytes)
                start = self._reserve(size_bytes, deadline)
                fill(lanes.memory, lane.base + start % lanes.lane_bytes)
                lane.head = start + size_bytes
                message = self._message(kind, frame, size_bytes, layout, n_events, n_frames)
                self._announce(message, deadline)
            else:
                whole = memoryview(bytearray(n_bytes))
                fill(whole, 0)
                self._send_parts(whole, deadline)
                message = self._message(kind, frame, 0, layout, n_events, n_frames)
                self._announce(message, deadline)
        except MisfitError:
            self._take_back_turn()
            raise
        except BaseException:
            self._give_up()
            raise
        if kind not in Kind.PREPARING:
            lanes.words[lane.words + Word.N_PUT] += n_frames

    def _take_back_turn(self) -> None:
        """The record that was begun is none; another way comes next."""
        lane = self._lane
        assert lane is not None
        lane.sequence -= 1
        self._lanes.words[lane.words + Word.BEGUN] = lane.sequence

    def _give_up(self) -> None:
        """The record that was begun does not come: tell the reader, now or before the next one."""
        lane = self._lane
        assert lane is not None
        lane.forget_values()  # before the reader is told, which does so as well
        lane.unsettled = not self._lanes.pipe.send(self._message(Kind.RETRACT))

    def _refuse_too_large(self, frame: int, n_bytes: int) -> None:
        capacity_bytes = self._lanes.capacity_bytes
        if n_bytes > capacity_bytes:
            raise DataError(
                f"frame {frame}: expected at most {capacity_bytes} bytes (capacity_bytes of the "
                f"queue), got {n_bytes} bytes in one item; pass a larger capacity_bytes to "
                f"EventQueue, or put fewer events at a time"
            )

    def _send_parts(self, whole: memoryview, deadline: float | None) -> None:
        """Send what is larger than the lane in parts; the reader puts them together."""
        lanes, lane = self._lanes, self._lane
        assert lane is not None
        part_bytes = aligned(lanes.lane_bytes // _PARTS_PER_LANE)
        for begin in range(0, len(whole), part_bytes):
            part = whole[begin : begin + part_bytes]
            start = self._reserve(part_bytes, deadline)
            offset = lane.base + start % lanes.lane_bytes
            lanes.memory[offset : offset + len(part)] = part
            lane.head = start + part_bytes
            self._announce(self._message(Kind.PART, len(whole), part_bytes), deadline)

    # -----------------------------------------------------------------------------------------
    # room and news

    def _reserve(self, size_bytes: int, deadline: float | None) -> int:
        """Wait for so much room in one piece; gives its position in the lane."""
        lanes, lane = self._lanes, self._lane
        assert lane is not None
        start, needed = self._place_for(size_bytes)
        while self._given_back() < needed:
            # not to be woken for each record: sleep until half of the lane is free
            wanted = max(needed, lane.head - lanes.lane_bytes // 2)
            if deadline is not None and time.monotonic() >= deadline:
                # who comes again and again, with little patience, waits as well
                lanes.pipe.send(self._message(Kind.WAIT, position=wanted))
                raise queue.Full
            self._announce(self._message(Kind.WAIT, position=wanted), deadline)
            self._sleep([], deadline)
        return start

    def _place_for(self, size_bytes: int) -> tuple[int, int]:
        """Position of so much room in one piece, and up to where the lane has to be free first.

        In an empty lane it moves the head to the place that it gives; to ask again does no harm.
        """
        lane, lane_bytes = self._lane, self._lanes.lane_bytes
        assert lane is not None
        room = lane_bytes - lane.head % lane_bytes
        if self._given_back() == lane.head:
            # an empty lane: begin at its beginning, which the processor still has in its cache.
            # The head comes along: the record may be given up, and the lane is empty then as well
            lane.head = lane.floor = lane.head + room % lane_bytes
            return lane.head, lane.head
        start = lane.head if size_bytes <= room else lane.head + room
        # in an empty lane nothing is in the way
        return start, min(start + size_bytes - lane_bytes, lane.head)

    def _given_back(self) -> int:
        """Up to where the lane is free."""
        lane = self._lane
        assert lane is not None
        return max(self._lanes.words[lane.words + Word.TAIL], lane.floor)

    def _message(
        self,
        kind: int,
        value: int = 0,
        size_bytes: int = 0,
        layout: int = 0,
        n_events: int = 0,
        n_frames: int = 1,
        position: int | None = None,
    ) -> bytes:
        lane = self._lane
        assert lane is not None
        end = lane.head if position is None else position
        try:
            return MESSAGE.pack(
                kind,
                lane.number,
                layout,
                size_bytes,
                value,
                end,
                lane.sequence,
                n_events,
                n_frames,
            )
        except struct.error as exc:
            raise EventError(
                f"frame {value}: expected a frame index of 64 bits, which this is not"
            ) from exc

    def _announce(self, message: bytes, deadline: float | None) -> None:
        """Send a message; waits while the pipe is full."""
        while not self._lanes.pipe.send(message):
            self._sleep([], deadline, writable=self._lanes.pipe.writer)

    def _sleep(
        self,
        handles: Sequence[Any],
        deadline: float | None,
        *,
        writable: Any = None,
        at_most: float | None = None,
    ) -> None:
        """Wait for the reader; raises if there is none any more, or no time."""
        lanes = self._lanes
        pid = lanes.words[Word.READER]
        if pid not in {0, self._pid} and self._reader is None:
            self._reader = Peer(pid)
        waker = None if self._lane is None else lanes.wakers[self._lane.number]
        left = seconds_left(deadline)
        wait(
            [*handles, *([] if waker is None else [waker.reader])],
            timeout=at_most if left is None or (at_most is not None and at_most < left) else left,
            writable=writable,
            peers=[] if self._reader is None else [self._reader],
        )
        if waker is not None:
            waker.receive(64)
        lanes.check_open()
        if self._reader is not None and self._reader.has_ended():
            raise WriterDiedError(
                f"event queue: the process that reads it (pid {pid}) has died; what it had not "
                f"written is lost; look for what killed it, and start the recording again"
            )
        if left is not None and time.monotonic() >= (deadline or 0.0):
            raise queue.Full


def _copier(data: bytes) -> Callable[[Any, int], None]:
    def fill(memory: Any, offset: int) -> None:
        memory[offset : offset + len(data)] = data

    return fill


def _sliced(events: Mapping[str, Any], part: slice) -> dict[str, Any]:
    return {
        feat: _sliced(value, part) if isinstance(value, Mapping) else value[part]
        for feat, value in events.items()
    }
