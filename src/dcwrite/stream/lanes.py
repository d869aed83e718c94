"""Lanes: the shared memory of an event queue, its pipes, and the messages that go through them.

Alone here: what stands where in the memory, and what a message looks like. Invariant: each word
has one writer at a time, and what a message speaks of was written before it was sent.

Memory ordering: a message goes through a pipe, whose lock in the kernel orders the writes of a
record before the reads of it. The tail of a lane is moved in a later call than the one that gave
the memory out, so at least one lock (the queue's, the interpreter's) was released and taken
between the last read and the move; a producer that sees the new tail branches on it before it
writes. x86 and ARM need no more.
"""

from __future__ import annotations

import os
import struct
import time
from multiprocessing import context
from typing import Any, Final, NamedTuple

import numpy as np

from ..errors import ClosedError, UsageError
from .peers import MessagePipe, SharedBlock

__all__ = [
    "MESSAGE",
    "MESSAGES_PER_READ",
    "MESSAGE_DTYPE",
    "NEWS",
    "Kind",
    "Lanes",
    "Message",
    "Word",
    "aligned",
    "deadline_of",
    "lock_timeout",
    "seconds_left",
]


class Kind:
    """What a message says."""

    # with a record:
    PACKED, BATCH, PICKLE, LAYOUT, VALUE, PART = range(6)
    # without a record, in turn with the others of the lane:
    NONE, RETRACT = range(6, 8)
    # taken note of at once:
    HELLO, BYE, WAIT, NOOP = range(8, 12)
    #: those that only say what later records mean
    PREPARING = frozenset({LAYOUT, VALUE})


class Word:
    """Places of words of 8 bytes."""

    # of the whole queue: whether the reader has closed it, the reader's process id, and whether
    # somebody waits for a lane since one was given away last
    CLOSED, READER, WANTED = 0, 1, 2
    #: words of a lane
    PER_LANE = 8
    # all before TAIL was given back; items that were begun, owner's process id, frames put and
    # taken, whether its owner has gone and could not say so, owners before this one
    TAIL, BEGUN, OWNER, N_PUT, N_TAKEN, LEFT, N_OWNERS = range(7)


#: kind, lane, layout, size of the record, frame (or process id, size of the whole, number of the
#: shared value), end of the record in the lane, number of the item in the lane, events (or bytes
#: of the shared value), frames
MESSAGE: Final = struct.Struct("<BBHIqQQII")
#: The same for many at once.
MESSAGE_DTYPE: Final = np.dtype(
    [
        ("kind", "<u1"), ("lane", "<u1"), ("layout", "<u2"), ("size_bytes", "<u4"),
        ("value", "<i8"), ("end", "<u8"), ("sequence", "<u8"), ("n_events", "<u4"),
        ("n_frames", "<u4"),
    ]
)  # fmt: skip


#: A message that only wakes the reader.
NEWS: Final = MESSAGE.pack(Kind.NOOP, 0, 0, 0, 0, 0, 0, 0, 0)


class Message(NamedTuple):
    """A message; see `MESSAGE`."""

    kind: int
    lane: int
    layout: int
    size_bytes: int
    value: int
    end: int
    sequence: int
    n_events: int
    n_frames: int

    @property
    def lent_bytes(self) -> int:
        """Memory in the lane."""
        return self.size_bytes

    def is_of(self, frames: range) -> bool:
        """Whether it is of such frames (its first counts), which stand in the lane."""
        is_there = self.kind in {Kind.PACKED, Kind.BATCH} and self.size_bytes > 0
        return is_there and self.value in frames


#: What a pipe holds at most on Linux (64 KiB), so that one read takes all.
MESSAGES_PER_READ: Final = 65536 // MESSAGE.size

#: Records begin at a cache line.
_ALIGNMENT_BYTES: Final = 64
_PAGE_BYTES: Final = 4096
_LEAST_LANE_BYTES: Final = 1024
_MOST_LANES: Final = 255


class Lanes:
    """What all processes share of a queue.

    Parameters
    ----------
    capacity_bytes
        Size of all lanes.
    n_lanes
        Number of lanes; None: 8 more than this computer has cores, at least 16.

    Attributes
    ----------
    memory, readable : memoryview
        The whole memory; `readable` cannot be written to.
    words : memoryview
        Its beginning as words of 8 bytes.
    pipe : MessagePipe
        From the producers to the reader.
    tokens : MessagePipe
        Numbers of the lanes that nobody has.
    wakers : list of MessagePipe
        From the reader to the owner of each lane.

    Raises
    ------
    UsageError
        The capacity is too small for the number of lanes, or that number is not from 1 to 255.
    """

    def __init__(self, capacity_bytes: int, n_lanes: int | None) -> None:
        if n_lanes is None:
            n_lanes = min(_MOST_LANES, max(16, (os.cpu_count() or 1) + 8))
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
        words_bytes = 8 * Word.PER_LANE * (1 + n_lanes)
        self.capacity_bytes = capacity_bytes
        self.lane_bytes = lane_bytes
        self._data_start = -(-words_bytes // _PAGE_BYTES) * _PAGE_BYTES
        self._block = SharedBlock(self._data_start + n_lanes * lane_bytes)
        self.pipe = MessagePipe(MESSAGE.size)
        self.tokens = MessagePipe(1)
        self.wakers = [MessagePipe(1) for _ in range(n_lanes)]
        for number in range(n_lanes):
            self.tokens.send(bytes([number]))
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        self.is_closed = False
        self.memory = self._block.memory
        self.readable = self.memory.toreadonly()
        self.words = self.memory[: self._data_start].cast("Q")

    def __getstate__(self) -> dict[str, Any]:
        """What a spawned process gets."""
        context.assert_spawning(self)
        self.check_open()
        views = ("memory", "readable", "words")
        return {name: value for name, value in self.__dict__.items() if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the memory in the spawned process."""
        self.__dict__.update(state)
        self._look_at_memory()

    def words_of(self, lane: int) -> int:
        """Index of the first word of a lane."""
        return Word.PER_LANE * (1 + lane)

    def start_of(self, lane: int) -> int:
        """Offset of a lane in the memory."""
        return self._data_start + lane * self.lane_bytes

    def wake(self, lane: int) -> None:
        """Wake the owner of a lane."""
        self.wakers[lane].send(b"!")

    def wake_all(self) -> None:
        """Wake the owners of all lanes."""
        for waker in self.wakers:
            waker.send(b"!")

    def check_open(self) -> None:
        """Refuse a queue that was closed.

        Raises
        ------
        ClosedError
            It was closed, here or by its reader.
        """
        if self.is_closed:
            raise ClosedError("event queue: expected an open queue, got one that was closed")
        if self.words[Word.CLOSED]:
            raise ClosedError(
                "event queue: expected a reader, but it has closed the queue; see what the writer "
                "says (its counters and join raise its error)"
            )


def aligned(n_bytes: int) -> int:
    """Size of a record in a lane."""
    return max(1, -(-n_bytes // _ALIGNMENT_BYTES)) * _ALIGNMENT_BYTES


def deadline_of(block: bool, timeout: float | None) -> float | None:
    """Point in time at which a wait ends; None: never."""
    if not block:
        return time.monotonic()
    return None if timeout is None else time.monotonic() + timeout


def seconds_left(deadline: float | None) -> float | None:
    """Time until a deadline, in seconds; None: no limit."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def lock_timeout(deadline: float | None) -> float:
    """The same as locks take it."""
    return -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
