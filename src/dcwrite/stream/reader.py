"""Reader: the side of an event queue that gets.

Alone here: the order of what comes out, when memory is given back, and what becomes of a lane
whose owner has gone. Invariant: an item comes out whole or not at all; a lane goes to the next
only when all that stood in it was taken.
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

from ..errors import UsageError, WriterDiedError
from .lanes import MESSAGE, MESSAGES_PER_READ, Kind, Lanes, Word, lock_timeout, seconds_left
from .packing import Layout, Lease, PackedEvents, Spec
from .peers import Peer, wait

__all__ = ["Items", "Reader"]

Items: TypeAlias = list[tuple[int, Any]]

#: Part of a lane that is lent at a time, so that its producer can go on meanwhile.
_LENT_SHARE: Final = 4
#: While there is always something to read, deaths are looked for that often.
_LOOK_PERIOD_S: Final = 0.1


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
        #: announced, and not looked at; a lane that ends: (GONE, lane, error)
        self._messages: deque[tuple[Any, ...]] = deque()
        self._ready: deque[tuple[int, Any]] = deque()
        self._lease = Lease()
        #: lane -> where its tail goes when what is lent is taken back
        self._give_back: dict[int, int] = {}
        #: lane -> tail that its producer waits for
        self._wanted: dict[int, int] = {}
        #: lane -> number of the last item that was announced
        self._seen: dict[int, int] = {}
        self._specs: dict[Spec, Layout] = {}
        self._layouts: dict[tuple[int, int], Layout] = {}
        #: lane -> number of the item, its bytes, how many are there
        self._assemblies: dict[int, tuple[int, bytearray, int]] = {}
        #: lane -> the process that owns it
        self._peers: dict[int, Peer] = {}
        self._last_look_s = time.monotonic()

    def get(self, deadline: float | None) -> Any:
        """Take the next item; see `EventQueue.get`."""
        with self._turn(deadline):
            if not self._ready:
                self._ready.extend(self._take(deadline))
            item = self._ready.popleft()
            if type(item) is tuple and len(item) == 2 and isinstance(item[1], PackedEvents):
                item = (item[0], item[1].unpacked())
            return item

    def get_many(self, deadline: float | None) -> Items:
        """Take what is there; see `EventQueue.get_many`."""
        with self._turn(deadline):
            if not self._ready:
                return self._take(deadline)
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
        if self._ready or self._messages:
            return False
        return not wait([self._lanes.pipe.reader], timeout=0)

    def close(self) -> None:
        """End the reading; those who put have been told before."""
        # wakes a thread of ours that waits
        self._lanes.pipe.send(MESSAGE.pack(Kind.NOOP, 0, 0, 0, 0, 0, 0, 0, 0))
        with self._lock:
            self._lease.is_over = True
            self._ready.clear()
            self._messages.clear()
            for peer in self._peers.values():
                peer.close()
            self._peers.clear()

    @contextmanager
    def _turn(self, deadline: float | None) -> Iterator[None]:
        if not self._lock.acquire(timeout=lock_timeout(deadline)):
            raise queue.Empty
        try:
            self._lanes.check_open()
            self._attach()
            yield
        finally:
            self._lock.release()

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

    def _take(self, deadline: float | None) -> Items:
        """Wait for items; what was lent before is taken back."""
        self._take_back()
        if time.monotonic() - self._last_look_s > _LOOK_PERIOD_S:
            self._look_for_deaths()
        while True:
            self._lanes.check_open()
            if items := self._decode_some():
                return items
            self._take_back()
            if self._messages or self._read_pipe():
                continue
            happened = wait(
                [self._lanes.pipe.reader],
                timeout=seconds_left(deadline),
                peers=list(self._peers.values()),
            )
            if not happened:
                raise queue.Empty
            if not self._read_pipe():
                self._look_for_deaths()

    def _take_back(self) -> None:
        """Give the memory of what was read back to the producers."""
        if not self._give_back:
            return
        lanes = self._lanes
        self._lease.is_over = True
        self._lease = Lease()
        for lane, end in self._give_back.items():
            lanes.words[lanes.words_of(lane) + Word.TAIL] = end
            if lane in self._wanted and end >= self._wanted[lane]:
                del self._wanted[lane]
                lanes.wake(lane)
        self._give_back.clear()

    def _read_pipe(self) -> bool:
        """Take messages out of the pipe; False: it was empty."""
        lanes = self._lanes
        data = lanes.pipe.receive(MESSAGES_PER_READ)
        for message in MESSAGE.iter_unpack(data):
            kind, lane, _, _, value, position, sequence, _, _ = message
            if kind < Kind.HELLO:
                self._messages.append(message)
                if kind not in {Kind.PART, Kind.LAYOUT}:
                    self._seen[lane] = sequence
            elif kind == Kind.WAIT:
                if lanes.words[lanes.words_of(lane) + Word.TAIL] >= position:
                    lanes.wake(lane)
                else:
                    self._wanted[lane] = position
            elif kind == Kind.HELLO and value != self._pid:
                self._peers[lane] = Peer(value)
            elif kind == Kind.BYE:
                self._part_with(lane, None)
        return bool(data)

    # -----------------------------------------------------------------------------------------
    # producers that end

    def _look_for_deaths(self) -> None:
        self._last_look_s = time.monotonic()
        lanes = self._lanes
        for lane, peer in list(self._peers.items()):
            if not peer.has_ended():
                continue
            while self._read_pipe():  # what it announced stands there by now
                pass
            if self._peers.get(lane) is not peer:
                continue  # it had said goodbye
            begun = lanes.words[lanes.words_of(lane) + Word.BEGUN]
            error = None
            if begun != self._seen.get(lane, 0):
                error = WriterDiedError(
                    f"event queue: the process with pid {peer.pid} died in the middle of an item "
                    f"(number {begun} that it put), whose events are lost; look for what killed it"
                )
            self._part_with(lane, error)

    def _part_with(self, lane: int, error: WriterDiedError | None) -> None:
        """Take the lane back, behind the items that stand in it."""
        peer = self._peers.pop(lane, None)
        if peer is not None:
            peer.close()
        self._messages.append((Kind.GONE, lane, error))

    def _recycle(self, lane: int) -> None:
        """Give a lane to the next who wants one."""
        lanes = self._lanes
        first = lanes.words_of(lane)
        for word in range(first, first + Word.PER_LANE):
            lanes.words[word] = 0
        for known in [key for key in self._layouts if key[0] == lane]:
            del self._layouts[known]
        self._give_back.pop(lane, None)
        self._wanted.pop(lane, None)
        self._seen.pop(lane, None)
        self._assemblies.pop(lane, None)
        lanes.tokens.send(bytes([lane]))

    # -----------------------------------------------------------------------------------------
    # messages to items

    def _decode_some(self) -> Items:
        """Items of the next messages, until enough memory is lent."""
        items: Items = []
        n_lent = 0
        messages = self._messages
        while messages and n_lent < self._lanes.lane_bytes // _LENT_SHARE:
            message = messages[0]
            if message[0] != Kind.GONE:
                messages.popleft()
                n_lent += message[3]
                self._decode(message, items)
                continue
            if items:
                break  # they may be views of this lane
            messages.popleft()
            _, lane, error = message
            self._recycle(lane)
            if error is not None:
                raise error
        return items

    def _decode(self, message: tuple[Any, ...], items: Items) -> None:
        kind, lane, layout_number, size_bytes, value, end, sequence, n_events, n_frames = message
        lanes = self._lanes
        memory = lanes.readable
        offset = lanes.start_of(lane) + (end - size_bytes) % lanes.lane_bytes
        lease: Lease | None = self._lease
        self._give_back[lane] = end
        if kind == Kind.PART:
            self._assemble(lane, sequence, value, memory[offset : offset + size_bytes])
            return
        if kind == Kind.RETRACT:
            return
        if not size_bytes and kind != Kind.NONE:
            whole = self._assemblies.pop(lane)[1]
            memory, offset, lease = memoryview(whole).toreadonly(), 0, None
        if kind == Kind.LAYOUT:
            spec = pickle.loads(memory[offset:])  # noqa: S301 - from our own producers
            # one object for all producers: who compares layouts compares identities
            known = self._specs.get(spec)
            if known is None:
                known = self._specs[spec] = Layout(spec)
            self._layouts[lane, layout_number] = known
            return
        lanes.words[lanes.words_of(lane) + Word.N_TAKEN] += n_frames
        if kind == Kind.NONE:
            items.append((value, None))
            return
        if kind == Kind.PICKLE:
            items.append(pickle.loads(memory[offset:]))  # noqa: S301 - from our own producers
            return
        layout = self._layouts[lane, layout_number]
        after = offset + layout.block_bytes(n_events)
        if kind == Kind.PACKED:
            rest = pickle.loads(memory[after:]) if layout.rest else {}  # noqa: S301 - as above
            items.append((value, PackedEvents(layout, memory, offset, n_events, rest, lease)))
            return
        batch = PackedEvents(layout, memory, offset, n_events, {}, lease)
        counts = np.frombuffer(memory, np.int64, n_frames, after).tolist()
        first = 0
        for frame, count in enumerate(counts, start=value):
            if count:
                items.append((frame, batch.part(first, count)))
                first += count

    def _assemble(self, lane: int, sequence: int, n_bytes: int, part: memoryview) -> None:
        """Add a part to an item that is larger than a lane."""
        assembly = self._assemblies.get(lane)
        if assembly is None or assembly[0] != sequence:  # else: of one that was given up
            assembly = (sequence, bytearray(n_bytes), 0)
        _, whole, n_filled = assembly
        stop = min(n_bytes, n_filled + len(part))
        whole[n_filled:stop] = part[: stop - n_filled]
        self._assemblies[lane] = (sequence, whole, stop)
