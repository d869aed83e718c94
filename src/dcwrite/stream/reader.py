"""Reader: the side of an event queue that gets.

Alone here: the order of what comes out, when memory is given back, and what becomes of a lane
whose owner has gone. Invariant: an item comes out whole or not at all, those of one producer in
their order; a lane goes to the next only when all that stood in it was taken.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import EventError, UsageError, WriterDiedError
from .arrivals import NOTHING, Arrivals, Records, by_lane
from .lanes import (
    MESSAGES_PER_READ,
    NEWS,
    Kind,
    Lanes,
    Message,
    Word,
    lock_timeout,
    seconds_left,
)
from .messages import loaded
from .packing import Layout, Lease, PackedEvents, SharedValues, Spec
from .peers import Peer, wait
from .runs import PackedRun

__all__ = ["Items", "Reader"]

Items: TypeAlias = list[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]

#: Part of a lane that is lent at a time, so that its producer can go on meanwhile.
_LENT_SHARE: Final = 4
#: While there is always something to read, deaths are looked for that often.
_LOOK_PERIOD_S: Final = 0.1
#: How long a producer without room may wait for frames that are not asked for yet.
_HOLD_S: Final = 0.02


class _Lane:
    """What the reader knows of a lane."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        #: the process that owns it
        self.peer: Peer | None = None
        #: tail that its producer waits for, and since when; the time is not counted in which
        #: nobody read
        self.wanted: int | None = None
        self.wanted_since = 0.0
        #: whether that took too long, so that what comes too early is taken out
        self.is_urgent = False
        #: number of the last item that was announced
        self.seen = 0
        self.layouts: dict[int, Layout] = {}
        #: those that items may have from now on; never changed, but replaced
        self.shared: SharedValues = {}
        #: number of the item that comes in parts, its bytes, how many are there
        self.assembly: tuple[int, bytearray, int] | None = None

    def forget_values(self, item: Any) -> None:
        """After an item: values before its last one do not come again."""
        if len(self.shared) > 1 and not isinstance(item, EventError):
            last = item[1].last_shared()
            if last is not None:
                self.shared = {n: value for n, value in self.shared.items() if n >= last}


class _Values:
    """Shared values of all lanes; those that are equal become one and the same array.

    Workers have the same backgrounds, each from its own lane.
    """

    #: Values that are compared.
    N_KEPT: Final = 4

    def __init__(self) -> None:
        #: the last ones first, as bytes and as arrays of these
        self._kept: deque[tuple[bytes, Bytes]] = deque(maxlen=self.N_KEPT)

    def keep(self, data: bytes) -> Bytes:
        """An array of these bytes; the same one if they came before."""
        for known, value in self._kept:
            if known == data:
                return value
        value = np.frombuffer(data, np.uint8)
        self._kept.appendleft((data, value))
        return value


class Reader:
    """The side of a queue that gets, in one process.

    Parameters
    ----------
    lanes
        What the processes share.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._is_attached = False
        self._known = [_Lane() for _ in lanes.wakers]
        #: those of which something was announced, and not looked at
        self._pending: dict[int, _Lane] = {}
        self._ready: deque[Any] = deque()
        self._lease = Lease()
        #: by the number of a lane of which something is lent: where its tail goes afterwards
        self._lent: dict[int, int] = {}
        self._specs: dict[Spec, Layout] = {}
        self._values = _Values()
        self._last_look_s = self._left_s = time.monotonic()

    def get(self, deadline: float | None) -> Any:
        """Take the next item; see `EventQueue.get`."""
        with self._turn(deadline):
            if not self._ready:
                self._ready.extend(_single(self._take(deadline)))
            item = self._ready.popleft()
            if isinstance(item, EventError):
                raise item
            if type(item) is tuple and len(item) == 2 and isinstance(item[1], PackedEvents):
                item = (item[0], item[1].unpacked())
            return item

    def get_many(self, deadline: float | None) -> Items:
        """Take what is there; see `EventQueue.get_many`."""
        items = _single(self.get_runs(deadline, NOTHING))
        n_good = next((n for n, item in enumerate(items) if isinstance(item, EventError)), None)
        if n_good is None:
            return items
        # it is told after what came before it
        with self._lock:
            self._ready.extend(items[n_good + (not n_good) :])
        if not n_good:
            raise items[0]
        return items[:n_good]

    def get_runs(self, deadline: float | None, early: range) -> Items:
        """Take what is there, frames that are alike together; see `EventQueue.get_runs`."""
        with self._turn(deadline):
            if not self._ready:
                return self._take(deadline, early)
            items = list(self._ready)
            self._ready.clear()
            return items

    @property
    def is_attached(self) -> bool:
        """Whether this process is the one that reads."""
        return self._is_attached

    @property
    def n_ready(self) -> int:
        """Items that were taken out of the memory and not asked for."""
        return len(self._ready)

    def empty(self) -> bool:
        """Whether there is nothing to get."""
        if self._ready or self._pending:
            return False
        return not wait([self._lanes.pipe.reader], timeout=0)

    def close(self) -> None:
        """End the reading; those who put have been told before."""
        # wakes a thread of ours that waits
        self._lanes.pipe.send(NEWS)
        with self._lock:
            self._lease.is_over = True
            self._ready.clear()
            self._pending.clear()
            for lane in self._known:
                if lane.peer is not None:
                    lane.peer.close()
                    lane.peer = None

    @contextmanager
    def _turn(self, deadline: float | None) -> Iterator[None]:
        if not self._lock.acquire(timeout=lock_timeout(deadline)):
            raise queue.Empty
        try:
            self._lanes.check_open()
            self._attach()
            self._forget_absence()
            yield
        finally:
            self._left_s = time.monotonic()
            self._lock.release()

    def _forget_absence(self) -> None:
        """While nobody read, producers did not wait for frames that nobody had asked for yet."""
        absence = time.monotonic() - self._left_s
        for lane in self._pending.values():
            lane.wanted_since += absence

    def _attach(self) -> None:
        """Become the reader."""
        if self._is_attached:
            return
        words = self._lanes.words
        if words[Word.READER]:
            raise UsageError(
                f"event queue: expected one process that reads, got this one (pid {self._pid}) "
                f"beside process {words[Word.READER]}"
            )
        words[Word.READER] = self._pid
        self._is_attached = True
        self._lanes.wake_all()  # who sleeps already is to watch this process

    def _take(self, deadline: float | None, early: range = NOTHING) -> Items:
        """Wait for items; what was lent before is taken back.

        Frames that come too `early` stay where they are as long as nobody waits for their memory.
        The answer is empty when only such frames have come.
        """
        self._take_back()
        if time.monotonic() - self._last_look_s > _LOOK_PERIOD_S:
            self._look_for_deaths()
        has_news = False
        while True:
            self._lanes.check_open()
            self._lose_patience()
            items, has_decoded = self._decode_some(early)
            if items or (has_news and early):
                return items
            self._take_back()
            if has_decoded:
                continue
            has_read, has_news = self._read_pipe()
            if not has_read:
                happened = wait(
                    [self._lanes.pipe.reader],
                    timeout=self._patience(deadline),
                    peers=[lane.peer for lane in self._known if lane.peer is not None],
                )
                if happened:
                    has_read, has_news = self._read_pipe()
                    if not has_read:
                        self._look_for_deaths()
            # others may wait, or give up, again and again
            if not has_news and seconds_left(deadline) == 0 and not self._lose_patience():
                if not self._pending:
                    raise queue.Empty
                early = NOTHING  # nothing else comes

    def _patience(self, deadline: float | None) -> float | None:
        """Seconds until the deadline, or until a producer has waited long enough."""
        left = seconds_left(deadline)
        for lane in self._pending.values():
            if lane.wanted is not None and not lane.is_urgent:
                hold = max(0.0, lane.wanted_since + _HOLD_S - time.monotonic())
                left = hold if left is None else min(left, hold)
        return left

    def _lose_patience(self) -> bool:
        """Whether a producer that waits has waited long enough by now."""
        found = False
        for lane in self._pending.values():
            if lane.wanted is not None and not lane.is_urgent:
                lane.is_urgent = time.monotonic() >= lane.wanted_since + _HOLD_S
                found |= lane.is_urgent
        return found

    def _take_back(self) -> None:
        """Give the memory of what was read back to the producers."""
        if not self._lent:
            return
        lanes = self._lanes
        self._lease.is_over = True
        self._lease = Lease()
        for number, end in self._lent.items():
            lane = self._known[number]
            lanes.words[lanes.words_of(number) + Word.TAIL] = end
            if lane.wanted is not None and end >= lane.wanted:
                lane.wanted, lane.is_urgent = None, False
                lanes.wake(number)
        self._lent.clear()

    def _read_pipe(self) -> tuple[bool, bool]:
        """Take messages out of the pipe; whether there were any, and any of items."""
        has_items = False
        data = self._lanes.pipe.receive(MESSAGES_PER_READ)
        for number, arrived in by_lane(data, self._lanes.lane_bytes):
            lane = self._known[number]
            for one in arrived:
                if isinstance(one, Message) and one.kind >= Kind.HELLO:
                    self._take_note(number, lane, one)
                    continue
                if one.kind not in {Kind.PART, *Kind.PREPARING}:
                    lane.seen = one.sequence
                has_items |= one.kind != Kind.RETRACT
                lane.arrivals.append(one)
            if lane.arrivals:
                self._pending[number] = lane
        return bool(data), has_items

    def _take_note(self, number: int, lane: _Lane, message: Message) -> None:
        """What is not in turn with the items."""
        lanes = self._lanes
        if message.kind == Kind.WAIT:
            if lanes.words[lanes.words_of(number) + Word.TAIL] >= message.end:
                lanes.wake(number)
            else:
                if lane.wanted is None:  # else it gave up, and has come again
                    lane.wanted_since = time.monotonic()
                lane.wanted = message.end
        elif message.kind == Kind.HELLO and message.value != self._pid:
            lane.peer = Peer(message.value)
        elif message.kind == Kind.BYE:
            self._part_with(number, lane, None)

    # -----------------------------------------------------------------------------------------
    # producers that end

    def _look_for_deaths(self) -> None:
        self._last_look_s = time.monotonic()
        lanes = self._lanes
        for number, lane in enumerate(self._known):
            peer = lane.peer
            if lanes.words[lanes.words_of(number) + Word.LEFT]:
                while self._read_pipe()[0]:  # what its owner announced before
                    pass
                self._part_with(number, lane, None)
                continue
            if peer is None or not peer.has_ended():
                continue
            while self._read_pipe()[0]:  # what it announced stands there by now
                pass
            if lane.peer is not peer:
                continue  # it had said goodbye
            begun = lanes.words[lanes.words_of(number) + Word.BEGUN]
            error = None
            if begun != lane.seen:
                error = WriterDiedError(
                    f"event queue: the process with pid {peer.pid} died in the middle of an item "
                    f"(number {begun} that it put), whose events are lost; look for what killed it"
                )
            self._part_with(number, lane, error)

    def _part_with(self, number: int, lane: _Lane, error: WriterDiedError | None) -> None:
        """Take the lane back, behind the items that stand in it."""
        if lane.peer is not None:
            lane.peer.close()
            lane.peer = None
        lane.arrivals.end(error)
        self._pending[number] = lane

    def _recycle(self, number: int) -> None:
        """Give a lane to the next who wants one."""
        lanes = self._lanes
        first = lanes.words_of(number)
        n_owners = lanes.words[first + Word.N_OWNERS] + 1
        for word in range(first, first + Word.PER_LANE):
            lanes.words[word] = 0
        lanes.words[first + Word.N_OWNERS] = n_owners
        self._known[number] = _Lane()
        lanes.words[Word.WANTED] = 0  # who goes on waiting says so again
        lanes.tokens.send(bytes([number]))

    # -----------------------------------------------------------------------------------------
    # messages to items

    def _decode_some(self, early: range) -> tuple[Items, bool]:
        """Items of the next messages, until enough memory is lent; whether there were any."""
        items: Items = []
        has_decoded = self._end_lanes()
        n_left = self._lanes.lane_bytes // _LENT_SHARE
        for number, lane in list(self._pending.items()):
            arrivals = lane.arrivals
            may_stay = NOTHING if self._is_waited_for(lane) else early
            while arrivals and n_left > 0:
                one = arrivals.take(may_stay, n_left)
                if one is None:
                    break
                has_decoded = True
                n_left -= one.lent_bytes
                self._decode(number, lane, one, items)
            del self._pending[number]
            if arrivals or arrivals.has_ended:
                self._pending[number] = lane  # behind the others
        return items, has_decoded

    def _is_waited_for(self, lane: _Lane) -> bool:
        """Whether what stands in a lane keeps somebody waiting, or an error from being told."""
        if lane.is_urgent or lane.arrivals.error is not None:
            return True
        return lane.arrivals.has_ended and bool(self._lanes.words[Word.WANTED])

    def _end_lanes(self) -> bool:
        """Recycle lanes that have ended, and of which nothing is left."""
        has_ended = False
        for number, lane in list(self._pending.items()):
            if lane.arrivals or not lane.arrivals.has_ended or number in self._lent:
                continue
            del self._pending[number]
            self._recycle(number)
            has_ended = True
            if lane.arrivals.error is not None:
                raise lane.arrivals.error
        return has_ended

    def _decode(self, number: int, lane: _Lane, one: Message | Records, items: Items) -> None:
        lanes = self._lanes
        memory = lanes.readable
        offset = lanes.start_of(number) + (one.end - one.size_bytes) % lanes.lane_bytes
        lease: Lease | None = self._lease
        if isinstance(one, Records):
            self._lent[number] = one.last_end
            self._decode_records(number, lane, one, offset, items)
            return
        kind, size_bytes, value = one.kind, one.size_bytes, one.value
        self._lent[number] = one.end
        if kind == Kind.PART:
            self._assemble(lane, one, memory[offset : offset + size_bytes])
            return
        if kind == Kind.RETRACT:
            lane.shared = {}  # what comes next brings its values itself
            return
        if not size_bytes and kind != Kind.NONE:
            assert lane.assembly is not None
            whole = lane.assembly[1]
            lane.assembly = None
            memory, offset, lease = memoryview(whole).toreadonly(), 0, None
        if kind == Kind.LAYOUT:
            spec = pickle.loads(memory[offset:])  # noqa: S301 - from our own producers
            # one object for all producers: who compares layouts compares identities
            known = self._specs.get(spec)
            if known is None:
                known = self._specs[spec] = Layout(spec)
            lane.layouts[one.layout] = known
            return
        if kind == Kind.VALUE:
            data = bytes(memory[offset : offset + one.n_events])
            lane.shared = {**lane.shared, value: self._values.keep(data)}
            return
        lanes.words[lanes.words_of(number) + Word.N_TAKEN] += one.n_frames
        if kind == Kind.NONE:
            items.append((value, None))
            return
        if kind == Kind.PICKLE:
            items.append(loaded(pickle.loads, memory[offset:], value))
            return
        layout = lane.layouts[one.layout]
        if kind == Kind.PACKED:
            item = _item(value, layout, memory, offset, one.n_events, lease, lane.shared)
            items.append(item)
            lane.forget_values(item)
            return
        after = offset + layout.block_bytes(one.n_events)
        counts = np.frombuffer(memory, np.int64, one.n_frames, after)
        frames = np.flatnonzero(counts)
        counts = counts[frames]
        if len(frames):
            firsts = np.cumsum(counts) - counts
            items.append(
                PackedRun(
                    layout, memory, offset, 0, one.n_events, frames + value, counts, firsts,
                    lease, lane.shared,
                )
            )  # fmt: skip
            lane.forget_values(items[-1].last_item())

    def _decode_records(
        self, number: int, lane: _Lane, records: Records, offset: int, items: Items
    ) -> None:
        lanes = self._lanes
        lanes.words[lanes.words_of(number) + Word.N_TAKEN] += len(records.frames)
        layout, memory = lane.layouts[records.layout], lanes.readable
        size_bytes, n_events = records.size_bytes, records.n_events
        if not layout.rest:
            frames = records.frames
            counts = np.full(len(frames), n_events)
            items.append(
                PackedRun(
                    layout, memory, offset, size_bytes, n_events, frames, counts,
                    np.zeros_like(counts), self._lease, lane.shared,
                )
            )  # fmt: skip
            lane.forget_values(items[-1].last_item())
            return
        for frame in records.frames.tolist():
            items.append(_item(frame, layout, memory, offset, n_events, self._lease, lane.shared))
            offset += size_bytes
        lane.forget_values(items[-1])

    @staticmethod
    def _assemble(lane: _Lane, message: Message, part: memoryview) -> None:
        """Add a part to an item that is larger than a lane."""
        assembly = lane.assembly
        if assembly is None or assembly[0] != message.sequence:  # else: of one that was given up
            assembly = (message.sequence, bytearray(message.value), 0)
        _, whole, n_filled = assembly
        stop = min(message.value, n_filled + len(part))
        whole[n_filled:stop] = part[: stop - n_filled]
        lane.assembly = (message.sequence, whole, stop)


def _item(
    frame: int,
    layout: Layout,
    memory: Any,
    offset: int,
    n_events: int,
    lease: Lease | None,
    shared: SharedValues,
) -> tuple[int, PackedEvents] | EventError:
    """Events of one frame; what is not packed stands behind them."""
    rest: Any = {}
    if layout.rest:
        rest = loaded(pickle.loads, memory[offset + layout.block_bytes(n_events) :], frame)
        if isinstance(rest, EventError):
            return rest
    return frame, PackedEvents(layout, memory, offset, n_events, rest, lease, shared=shared)


def _single(items: Items) -> Items:
    """The same items, one for each frame."""
    singles: Items = []
    for item in items:
        if type(item) is PackedRun:
            singles.extend(item.items())
        else:
            singles.append(item)
    return singles
