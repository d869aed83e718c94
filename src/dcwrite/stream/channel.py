"""EventQueue: how events travel from worker processes to a queue writer, in shared memory.

Alone here: who writes where in the memory, when memory is given back, and how the death of one side
reaches the other. Invariant: a record is seen whole or not at all; no process waits for one that
has died; whoever dies takes nothing with it but its own lane, which is given to the next.

Every process that puts has a lane of the memory to itself, so there is no lock between processes. A
lane is a ring of bytes. A record is written first and announced then, by a message of 40 bytes in
a pipe that all share, which wakes the reader. The reader gives memory back by moving the lane's
tail. A producer without room says in the same pipe how much it needs, and sleeps on the lane's own
pipe until the reader has given back that much.

Memory ordering: the announcement goes through a pipe, whose lock in the kernel orders the writes
of the record before the reads of it. The tail is moved in a later call than the one that gave
the memory out, so at least one lock (the queue's, the interpreter's) was released and taken between
the last read and the move; a producer that sees the new tail branches on it before it writes. One
aligned 64-bit word has one writer. So x86 and ARM need no more.
"""

from __future__ import annotations

import operator
import os
import pickle
import queue
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import context
from typing import Any, Final

import numpy as np

from ..errors import ClosedError, DataError, EventError, UsageError, WriterDiedError
from .packing import Layout, Lease, MisfitError, PackedEvents, Spec, analyse
from .peers import MessagePipe, Peer, SharedBlock, wait

__all__ = ["EventQueue", "Items"]

Items = list[tuple[int, Any]]

# Kinds of messages. With a record:
_PACKED, _BATCH, _PICKLE, _LAYOUT, _PART = range(5)
# without a record, in turn with the others of the lane:
_NONE, _RETRACT, _GONE = range(5, 8)
# taken note of at once:
_HELLO, _BYE, _WAIT, _NOOP = range(8, 12)

#: kind, lane, layout, size of the record, frame (or pid, or size of the whole), end of the record
#: in the lane, number of the item in the lane, events, frames
_MESSAGE: Final = struct.Struct("<BBHIqQQII")
#: What a pipe holds at most on Linux (64 KiB), so that one read takes all.
_MESSAGES_PER_READ: Final = 65536 // _MESSAGE.size

# Words of 8 bytes: for all,
_CLOSED, _READER = 0, 1
# and for each lane.
_LANE_WORDS: Final = 8
_TAIL, _BEGUN, _OWNER, _N_PUT, _N_TAKEN = range(5)

#: Records begin at a cache line.
_ALIGNMENT_BYTES: Final = 64
_PAGE_BYTES: Final = 4096
_LEAST_LANE_BYTES: Final = 1024
_MOST_LANES: Final = 255
#: More layouts than that: pickled, as if they had none.
_MOST_LAYOUTS: Final = 1000
#: Part of a lane that is lent at a time, so that its producer can go on meanwhile.
_LENT_SHARE: Final = 4
#: While there is always something to read, deaths are looked for that often.
_LOOK_PERIOD_S: Final = 0.1


class _Lane:
    """What a process knows about the lane that it writes to."""

    __slots__ = ("base", "head", "layout_numbers", "number", "sequence", "unsettled", "words")

    def __init__(self, number: int, lane_bytes: int, data_start: int) -> None:
        self.number = number
        self.words = _LANE_WORDS * (1 + number)
        self.base = data_start + number * lane_bytes
        self.head = 0
        self.sequence = 0
        #: an item was given up, and the reader does not know that yet
        self.unsettled = False
        self.layout_numbers: dict[Layout, int] = {}


class EventQueue:
    """Queue of events for many producers and one reader, bounded, in shared memory.

    Takes the place of a multiprocessing queue as `event_queue` of the queue writers. It is given
    to processes as an argument when they are started, as a multiprocessing queue is. Threads of
    one process may put at the same time. `put` waits while the memory is full.

    Parameters
    ----------
    capacity_bytes
        Size of the memory; the largest item that can be put.
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
        self, capacity_bytes: int = 64 * 1024**2, *, producers: int | None = None
    ) -> None:
        n_lanes = max(16, (os.cpu_count() or 1) + 8) if producers is None else producers
        n_lanes = min(n_lanes, _MOST_LANES) if producers is None else n_lanes
        if not 1 <= n_lanes <= _MOST_LANES:
            raise UsageError(
                f"producers: expected from 1 to {_MOST_LANES} processes, got {n_lanes}"
            )
        lane_bytes = capacity_bytes // n_lanes // _ALIGNMENT_BYTES * _ALIGNMENT_BYTES
        if not _LEAST_LANE_BYTES <= lane_bytes < 2**32:
            raise UsageError(
                f"capacity_bytes: expected at least {_LEAST_LANE_BYTES} bytes and less than 4 GiB "
                f"for each of {n_lanes} producers, got {capacity_bytes} bytes in all"
            )
        tokens = MessagePipe(1)
        for number in range(n_lanes):
            tokens.send(bytes([number]))
        block = SharedBlock(_data_start(n_lanes) + n_lanes * lane_bytes)
        wakers = [MessagePipe(1) for _ in range(n_lanes)]
        self._open(capacity_bytes, block, MessagePipe(_MESSAGE.size), tokens, wakers)

    def _open(
        self,
        capacity_bytes: int,
        block: SharedBlock,
        pipe: MessagePipe,
        tokens: MessagePipe,
        wakers: list[MessagePipe],
    ) -> None:
        self._shared = (capacity_bytes, block, pipe, tokens, wakers)
        self.capacity_bytes = capacity_bytes
        self._memory = block.memory
        self._readable = block.memory.toreadonly()
        self._pipe = pipe
        #: numbers of the lanes that nobody has
        self._tokens = tokens
        self._wakers = wakers
        self._data_start = _data_start(len(wakers))
        self._lane_bytes = (len(block.memory) - self._data_start) // len(wakers) // 64 * 64
        self._words = block.memory[: self._data_start].cast("Q")
        self._is_closed = False
        self._peers: dict[int, Peer] = {}
        self._reader_peer: Peer | None = None
        self._begin_in_this_process()

    def _begin_in_this_process(self) -> None:
        """State that a forked process must not have from its parent."""
        self._pid = os.getpid()
        # as a producer
        self._put_lock = threading.Lock()
        self._lane: _Lane | None = None
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._layouts_by_spec: dict[Spec, Layout] = {}
        # as the reader
        self._get_lock = threading.Lock()
        self._messages: deque[tuple[Any, ...]] = deque()
        self._ready: deque[Any] = deque()
        self._lease = Lease()
        self._give_back: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._known_layouts: dict[tuple[int, int], Layout] = {}
        self._assemblies: dict[int, tuple[int, bytearray, int]] = {}
        self._peers = {}
        self._reader_peer = None
        self._last_look_s = time.monotonic()

    def __getstate__(self) -> tuple[Any, ...]:
        """What a spawned process gets."""
        context.assert_spawning(self)
        self._check_open()
        return self._shared

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Open the queue in the spawned process."""
        self._open(*state)

    # -----------------------------------------------------------------------------------------
    # producers

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
        deadline = _deadline(block, timeout)
        self._enter(deadline)
        try:
            try:
                index, events = item
                frame = operator.index(index)
            except (TypeError, ValueError):
                self._send_pickled(0, item, deadline)
                return
            if events is None:
                self._send(_NONE, frame, 0, None, deadline)
            elif not isinstance(events, Mapping) or not self._send_events(frame, events, deadline):
                self._send_pickled(frame, (index, events), deadline)
        finally:
            self._put_lock.release()

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
            Number of events of each frame, shape (frames,).
        events
            Feature names to arrays with the events of all frames, one behind the other.
        block, timeout
            As for `put`, for each part if the events have to be put in parts.

        Raises
        ------
        EventError
            A feature does not have as many events as `nevents` says.
        queue.Full, DataError, ClosedError, WriterDiedError, UsageError
            As for `put`.
        """
        counts = np.asarray(nevents)
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or (counts < 0).any():
            raise EventError(
                f"nevents: expected non-negative integers of shape (frames,), got shape "
                f"{counts.shape} and dtype {counts.dtype}"
            )
        total = int(counts.sum())
        for feat, value in events.items():
            parts = value.items() if isinstance(value, Mapping) else [(None, value)]
            for name, array in parts:
                if len(array) != total:
                    raise EventError(
                        f"frames {first_frame} to {first_frame + len(counts) - 1}, feature "
                        f"'{feat if name is None else f'{feat}/{name}'}': expected {total} events "
                        f"(the sum of nevents), got {len(array)}"
                    )
        if total:
            self._put_frames(first_frame, counts.astype(np.int64), events, block, timeout)

    def _put_frames(
        self,
        first: int,
        counts: Any,
        events: Mapping[str, Any],
        block: bool,
        timeout: float | None,
    ) -> None:
        if len(counts) == 1:
            self.put((first, dict(events)), block, timeout)
            return
        found = analyse(events)
        layout = self._layout(found[0]) if found else None
        if layout is not None and found and not layout.rest:
            n_events = found[1]
            n_bytes = layout.block_bytes(n_events) + counts.nbytes
            if n_bytes <= self._lane_bytes:
                deadline = _deadline(block, timeout)
                self._enter(deadline)
                try:
                    self._send_packed(_BATCH, first, layout, events, counts.tobytes(), deadline)
                finally:
                    self._put_lock.release()
                return
        half = len(counts) // 2
        stop = int(counts[:half].sum())
        for begin, some, part in (
            (0, counts[:half], slice(stop)),
            (half, counts[half:], slice(stop, None)),
        ):
            if some.any():
                self._put_frames(first + begin, some, _sliced(events, part), block, timeout)

    def _enter(self, deadline: float | None) -> None:
        """Take the turn to put; the lane is ours, and the queue open."""
        if self._pid != os.getpid():
            self._begin_in_this_process()
        left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._put_lock.acquire(timeout=left):
            raise queue.Full
        try:
            self._check_open()
            if self._lane is None:
                self._claim_lane(deadline)
            elif self._lane.unsettled:
                self._announce(_RETRACT, deadline)
                self._lane.unsettled = False
        except BaseException:
            self._put_lock.release()
            raise

    def _claim_lane(self, deadline: float | None) -> None:
        while not (token := self._tokens.receive()):
            self._refuse_if_all_lanes_are_in_use()
            self._sleep([self._tokens.reader], deadline)
        lane = _Lane(token[0], self._lane_bytes, self._data_start)
        self._words[lane.words + _OWNER] = self._pid
        self._lane = lane
        try:
            self._announce(_HELLO, deadline, self._pid)
        except BaseException:
            self._lane = None
            self._words[lane.words + _OWNER] = 0
            self._tokens.send(token)
            raise

    def _refuse_if_all_lanes_are_in_use(self) -> None:
        n_lanes = len(self._wakers)
        for number in range(n_lanes):
            pid = self._words[_LANE_WORDS * (1 + number) + _OWNER]
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

    def _send_events(self, frame: int, events: Mapping[str, Any], deadline: float | None) -> bool:
        """Send events as a block; False: they cannot be packed."""
        layout = self._layouts.get(tuple(events))
        if layout is not None:
            try:
                self._send_packed(_PACKED, frame, layout, events, b"", deadline)
            except MisfitError:
                pass
            else:
                return True
        found = analyse(events)
        layout = self._layout(found[0]) if found else None
        if layout is None:
            return False
        self._layouts[layout.keys] = layout
        self._send_packed(_PACKED, frame, layout, events, b"", deadline)
        return True

    def _layout(self, spec: Spec) -> Layout | None:
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
        after: bytes,
        deadline: float | None,
    ) -> None:
        """Send a block with a known layout; raises `MisfitError` if it is another."""
        lane = self._lane
        assert lane is not None
        values, n_events = layout.take(events)
        if layout.rest:
            after = pickle.dumps({feat: events[feat] for feat in layout.rest}, protocol=5)
        number = lane.layout_numbers.get(layout)
        if number is None:
            spec = pickle.dumps(layout.spec, protocol=5)
            number = len(lane.layout_numbers)
            self._send(_LAYOUT, 0, len(spec), _copier(spec), deadline, number)
            lane.layout_numbers[layout] = number
        block_bytes = layout.block_bytes(n_events)

        def fill(memory: Any, offset: int) -> None:
            layout.pack(values, n_events, memory, offset)
            if after:
                memory[offset + block_bytes : offset + block_bytes + len(after)] = after

        n_frames = len(after) // 8 if kind == _BATCH else 1
        n_bytes = block_bytes + len(after)
        self._send(kind, frame, n_bytes, fill, deadline, number, n_events, n_frames)

    def _send_pickled(self, frame: int, item: Any, deadline: float | None) -> None:
        data = pickle.dumps(item, protocol=5)
        self._send(_PICKLE, frame, len(data), _copier(data), deadline)

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
        """Write a record and announce it; from here on its end is a death in the middle."""
        lane = self._lane
        assert lane is not None
        if n_bytes > self.capacity_bytes:
            raise DataError(
                f"frame {frame}: expected at most {self.capacity_bytes} bytes (capacity_bytes of "
                f"the queue), got {n_bytes} bytes in one item; pass a larger capacity_bytes to "
                f"EventQueue, or put fewer frames at a time"
            )
        words = self._words
        lane.sequence += 1
        words[lane.words + _BEGUN] = lane.sequence
        try:
            if fill is None:
                self._announce(kind, deadline, frame)
            elif n_bytes <= self._lane_bytes:
                size_bytes = _aligned(n_bytes)
                start = self._reserve(size_bytes, deadline)
                fill(self._memory, lane.base + start % self._lane_bytes)
                lane.head = start + size_bytes
                self._announce(kind, deadline, frame, size_bytes, layout, n_events, n_frames)
            else:
                whole = bytearray(n_bytes)
                fill(whole, 0)
                self._send_parts(frame, whole, deadline)
                self._announce(kind, deadline, frame, 0, layout, n_events, n_frames)
        except MisfitError:
            lane.sequence -= 1
            words[lane.words + _BEGUN] = lane.sequence
            raise
        except BaseException:
            lane.unsettled = not self._pipe.send(self._message(_RETRACT))
            raise
        if kind != _LAYOUT:
            words[lane.words + _N_PUT] += n_frames

    def _send_parts(self, frame: int, whole: bytearray, deadline: float | None) -> None:
        """Send what is larger than the lane in parts; the reader puts them together."""
        lane = self._lane
        assert lane is not None
        part_bytes = _aligned(self._lane_bytes // _LENT_SHARE)
        view = memoryview(whole)
        for begin in range(0, len(whole), part_bytes):
            part = view[begin : begin + part_bytes]
            start = self._reserve(part_bytes, deadline)
            offset = lane.base + start % self._lane_bytes
            self._memory[offset : offset + len(part)] = part
            lane.head = start + part_bytes
            self._announce(_PART, deadline, len(whole), part_bytes)

    def _reserve(self, size_bytes: int, deadline: float | None) -> int:
        """Wait for so much room in one piece; gives its position in the lane."""
        lane = self._lane
        assert lane is not None
        lane_bytes, head = self._lane_bytes, lane.head
        room = lane_bytes - head % lane_bytes
        start = head if size_bytes <= room else head + room
        # all before `needed` has to be given back; in an empty lane nothing is in the way
        needed = min(start + size_bytes - lane_bytes, head)
        while self._words[lane.words + _TAIL] < needed:
            if deadline is not None and time.monotonic() >= deadline:
                raise queue.Full
            # not to be woken for each record: sleep until half of the lane is free
            wanted = max(needed, head - lane_bytes // 2)
            self._announce(_WAIT, deadline, position=wanted)
            self._sleep([], deadline)
        return start

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
        return _MESSAGE.pack(
            kind, lane.number, layout, size_bytes, value, end, lane.sequence, n_events, n_frames
        )

    def _announce(self, kind: int, deadline: float | None, *values: int, **options: int) -> None:
        message = self._message(kind, *values, **options)
        while not self._pipe.send(message):
            self._sleep([], deadline, writable=self._pipe.writer)

    def _sleep(
        self, handles: Sequence[Any], deadline: float | None, *, writable: Any = None
    ) -> None:
        """Wait for the reader; raises if there is none any more."""
        pid = self._words[_READER]
        if pid not in {0, self._pid} and (
            self._reader_peer is None or self._reader_peer.pid != pid
        ):
            self._reader_peer = Peer(pid)
        peers = [] if self._reader_peer is None else [self._reader_peer]
        lane = self._lane
        own = [] if lane is None else [self._wakers[lane.number].reader]
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        in_time = wait([*handles, *own], timeout=left, writable=writable, peers=peers)
        if lane is not None:
            self._wakers[lane.number].receive(64)
        self._check_open()
        if self._reader_peer is not None and self._reader_peer.has_ended():
            raise WriterDiedError(
                f"event queue: the process that reads it (pid {pid}) has died; what was not read "
                f"is lost; look for what killed it, and start the recording again"
            )
        if not in_time:
            raise queue.Full

    # -----------------------------------------------------------------------------------------
    # the reader

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
        deadline = _deadline(block, timeout)
        with self._reading(deadline):
            if not self._ready:
                self._ready.extend(self._take(deadline))
            item = self._ready.popleft()
            if type(item) is tuple and len(item) == 2 and isinstance(item[1], PackedEvents):
                item = (item[0], item[1].unpacked())
            return item

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
            the next call of `get`, `get_many` or `close` takes back; ``copy()`` keeps them.

        Raises
        ------
        queue.Empty, WriterDiedError, ClosedError, UsageError
            As for `get`.
        """
        deadline = _deadline(block=True, timeout=timeout)
        with self._reading(deadline):
            if self._ready:
                items: Items = list(self._ready)
                self._ready.clear()
                return items
            return self._take(deadline)

    def empty(self) -> bool:
        """Whether there is nothing to get; no more than a guess while others put."""
        self._check_open()
        return not (self._ready or self._messages or wait([self._pipe.reader], timeout=0))

    def qsize(self) -> int:
        """Count the frames that were put and not taken; no more than a guess while others put."""
        self._check_open()
        lanes = range(_LANE_WORDS, _LANE_WORDS * (1 + len(self._wakers)), _LANE_WORDS)
        waiting = sum(self._words[ii + _N_PUT] - self._words[ii + _N_TAKEN] for ii in lanes)
        return max(0, waiting) + len(self._ready)

    def _reading(self, deadline: float | None) -> _Turn:
        if self._pid != os.getpid():
            self._begin_in_this_process()
        left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._get_lock.acquire(timeout=left):
            raise queue.Empty
        return _Turn(self._get_lock)

    def _take(self, deadline: float | None) -> Items:
        """Wait for items; what was lent before is taken back."""
        self._check_open()
        self._attach()
        self._take_back()
        if time.monotonic() - self._last_look_s > _LOOK_PERIOD_S:
            self._look_for_deaths()
        while True:
            if items := self._decode_some():
                return items
            self._take_back()
            if self._messages or self._read_pipe():
                continue
            self._look_for_deaths()
            if self._messages:
                continue
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            peers = list(self._peers.values())
            if not wait([self._pipe.reader], timeout=left, peers=peers):
                raise queue.Empty
            self._check_open()

    def _attach(self) -> None:
        """Become the reader."""
        pid = self._words[_READER]
        if pid == self._pid:
            return
        if pid:
            raise UsageError(
                f"event queue: expected one process that reads, got this one (pid {self._pid}) "
                f"beside process {pid}"
            )
        self._words[_READER] = self._pid
        self._wake_all()  # who sleeps already is to watch this process

    def _wake_all(self) -> None:
        for waker in self._wakers:
            waker.send(b"!")

    def _take_back(self) -> None:
        """Give the memory of what was read back to the producers."""
        if not self._give_back:
            return
        self._lease.is_over = True
        self._lease = Lease()
        for lane, end in self._give_back.items():
            self._words[_LANE_WORDS * (1 + lane) + _TAIL] = end
            if end >= self._wanted.get(lane, end + 1):
                del self._wanted[lane]
                self._wakers[lane].send(b"!")
        self._give_back.clear()

    def _read_pipe(self) -> bool:
        """Take messages out of the pipe; False: it was empty."""
        data = self._pipe.receive(_MESSAGES_PER_READ)
        for message in _MESSAGE.iter_unpack(data):
            kind, lane = message[0], message[1]
            if kind < _HELLO:
                self._messages.append(message)
                if kind not in {_PART, _LAYOUT}:
                    self._seen[lane] = message[6]
            elif kind == _WAIT:
                if self._words[_LANE_WORDS * (1 + lane) + _TAIL] >= message[5]:
                    self._wakers[lane].send(b"!")
                else:
                    self._wanted[lane] = message[5]
            elif kind == _HELLO:
                if message[4] != self._pid:
                    self._peers[lane] = Peer(message[4])
            elif kind == _BYE:
                self._part_with(lane, None)
        return bool(data)

    def _part_with(self, lane: int, error: WriterDiedError | None) -> None:
        """Take the lane back behind the items that stand in it."""
        peer = self._peers.pop(lane, None)
        if peer is not None:
            peer.close()
        self._messages.append((_GONE, lane, error))

    def _look_for_deaths(self) -> None:
        self._last_look_s = time.monotonic()
        for lane, peer in list(self._peers.items()):
            if not peer.has_ended():
                continue
            while self._read_pipe():  # what it announced stands there by now
                pass
            if self._peers.get(lane) is not peer:
                continue  # it had said goodbye
            words = _LANE_WORDS * (1 + lane)
            error = None
            if self._words[words + _BEGUN] != self._seen.get(lane, 0):
                error = WriterDiedError(
                    f"event queue: the process with pid {peer.pid} died in the middle of an item "
                    f"(number {self._words[words + _BEGUN]} that it put); the events of that item "
                    f"are lost; look for what killed it"
                )
            self._part_with(lane, error)

    def _decode_some(self) -> Items:
        """Items of the next messages, until enough memory is lent."""
        items: Items = []
        n_lent = 0
        messages = self._messages
        while messages and n_lent < self._lane_bytes // _LENT_SHARE:
            message = messages[0]
            if message[0] == _GONE:
                if items:
                    break
                messages.popleft()
                self._recycle(message[1])
                if message[2] is not None:
                    raise message[2]
                continue
            messages.popleft()
            n_lent += message[3]
            self._decode(message, items)
        return items

    def _decode(self, message: tuple[Any, ...], items: Items) -> None:
        kind, lane, layout_number, size_bytes, value, end, sequence, n_events, n_frames = message
        memory: Any = self._readable
        offset = self._data_start + lane * self._lane_bytes
        offset += (end - size_bytes) % self._lane_bytes
        self._give_back[lane] = end
        lease: Lease | None = self._lease
        if kind == _PART:
            self._assemble(lane, sequence, value, memory[offset : offset + size_bytes])
            return
        if not size_bytes and kind in {_PACKED, _BATCH, _PICKLE, _LAYOUT}:
            assembly = self._assemblies.pop(lane)
            memory, offset, lease = memoryview(assembly[1]).toreadonly(), 0, None
        if kind == _LAYOUT:
            spec = pickle.loads(memory[offset:])  # noqa: S301 - from our own producers
            # the same object for all producers: who looks at layouts compares identities
            layout = self._layouts_by_spec.setdefault(spec, Layout(spec))
            self._known_layouts[lane, layout_number] = layout
            return
        if kind == _RETRACT:
            return
        self._words[_LANE_WORDS * (1 + lane) + _N_TAKEN] += n_frames
        if kind == _NONE:
            items.append((value, None))
        elif kind == _PICKLE:
            items.append(pickle.loads(memory[offset:]))  # noqa: S301 - from our own producers
        else:
            layout = self._known_layouts[lane, layout_number]
            after = offset + layout.block_bytes(n_events)
            if kind == _PACKED:
                rest = pickle.loads(memory[after:]) if layout.rest else {}  # noqa: S301
                items.append((value, PackedEvents(layout, memory, offset, n_events, rest, lease)))
                return
            whole = PackedEvents(layout, memory, offset, n_events, {}, lease)
            begin = 0
            for frame, count in enumerate(
                np.frombuffer(memory, np.int64, n_frames, after).tolist()
            ):
                if count:
                    items.append((value + frame, whole.part(begin, count)))
                    begin += count

    def _assemble(self, lane: int, sequence: int, n_bytes: int, part: memoryview) -> None:
        """Add a part to an item that is larger than a lane."""
        assembly = self._assemblies.get(lane)
        if assembly is None or assembly[0] != sequence:  # else: one that was given up
            assembly = (sequence, bytearray(n_bytes), 0)
        _, whole, n_filled = assembly
        stop = min(n_bytes, n_filled + len(part))
        whole[n_filled:stop] = part[: stop - n_filled]
        self._assemblies[lane] = (sequence, whole, stop)

    def _recycle(self, lane: int) -> None:
        """Give a lane to the next who wants one."""
        words = _LANE_WORDS * (1 + lane)
        for ii in range(_LANE_WORDS):
            self._words[words + ii] = 0
        for known in [key for key in self._known_layouts if key[0] == lane]:
            del self._known_layouts[known]
        for state in (self._give_back, self._wanted, self._seen, self._assemblies):
            state.pop(lane, None)  # type: ignore[attr-defined]
        self._tokens.send(bytes([lane]))

    # -----------------------------------------------------------------------------------------
    # the end

    def close(self) -> None:
        """End the use of the queue in this process.

        If this process is the reader, those that put get a `ClosedError`. What a producer has put
        before can still be read.
        """
        if self._is_closed:
            return
        if self._pid != os.getpid():
            self._begin_in_this_process()
        self._is_closed = True
        if self._words[_READER] == self._pid:
            self._words[_CLOSED] = 1
        if self._words[_CLOSED]:
            self._wake_all()
        elif self._lane is not None:
            self._wakers[self._lane.number].send(b"!")
        # wakes a thread that reads
        self._pipe.send(_MESSAGE.pack(_NOOP, 0, 0, 0, 0, 0, 0, 0, 0))
        with self._put_lock:
            if self._lane is not None:
                self._words[self._lane.words + _OWNER] = 0
                self._pipe.send(self._message(_BYE))
                self._lane = None
        with self._get_lock:
            self._lease.is_over = True
            self._ready.clear()
            for peer in [*self._peers.values(), self._reader_peer]:
                if peer is not None:
                    peer.close()
            self._peers.clear()
            # the last reference closes the pipes and the memory
            del self._shared, self._memory, self._readable, self._words
            del self._pipe, self._tokens, self._wakers

    def join_thread(self) -> None:
        """Do nothing: what `put` has taken is where the reader finds it."""

    def cancel_join_thread(self) -> None:
        """Do nothing: there is no thread to wait for."""

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("event queue: expected an open queue, got one that was closed")
        if self._words[_CLOSED]:
            raise ClosedError(
                "event queue: expected a reader, but it has closed the queue; see what the writer "
                "says (its counters and join raise its error)"
            )


class _Turn:
    """Gives the lock back at the end of a `with` block."""

    __slots__ = ("_lock",)

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _aligned(n_bytes: int) -> int:
    return max(1, -(-n_bytes // _ALIGNMENT_BYTES)) * _ALIGNMENT_BYTES


def _data_start(n_lanes: int) -> int:
    return -(-8 * _LANE_WORDS * (1 + n_lanes) // _PAGE_BYTES) * _PAGE_BYTES


def _deadline(block: bool, timeout: float | None) -> float | None:
    if not block:
        return time.monotonic()
    return None if timeout is None else time.monotonic() + timeout


def _copier(data: bytes) -> Callable[[Any, int], None]:
    def fill(memory: Any, offset: int) -> None:
        memory[offset : offset + len(data)] = data

    return fill


def _sliced(events: Mapping[str, Any], part: slice) -> dict[str, Any]:
    return {
        feat: _sliced(value, part) if isinstance(value, Mapping) else value[part]
        for feat, value in events.items()
    }
