"""PackedRun: events of several frames that stand side by side in memory, copied in one go.

Alone here: how they stand there. Invariant: what a run gives frame by frame is what it gives as a
whole. Pure: no I/O, no waiting.

There are two forms. Blocks of one size, each with the events of one frame, as a worker leaves that
puts frame by frame; and one block with the events of all frames, as `put_batch` leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .packing import Layout, Lease, PackedEvents, SharedValues

__all__ = ["PackedRun"]

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class PackedRun:
    """Events of several frames with one layout.

    Parameters
    ----------
    layout
        Where the bytes of a block are; nothing of it is kept beside the blocks.
    memory
        Read-only buffer.
    offset
        Where the first block begins.
    step
        Bytes from one frame's block to the next one's; 0: all are in one block.
    n_block
        Number of events in a block.
    frames
        Index of each frame, shape (n,).
    counts
        Number of events of each frame, shape (n,).
    firsts
        Number of the first event of each frame in its block, shape (n,).
    lease
        Says whether the memory is still ours to read.
    shared
        At least the shared values that the blocks have.

    Attributes
    ----------
    layout, frames, counts, firsts, shared
        As given.
    """

    __slots__ = (
        "_lease", "_memory", "_n_block", "_offset", "_step", "counts", "firsts", "frames",
        "layout", "shared",
    )  # fmt: skip

    def __init__(
        self,
        layout: Layout,
        memory: Any,
        offset: int,
        step: int,
        n_block: int,
        frames: Integers,
        counts: Integers,
        firsts: Integers,
        lease: Lease | None = None,
        shared: SharedValues | None = None,
    ) -> None:
        self.layout = layout
        self.shared: SharedValues = {} if shared is None else shared
        self.frames = frames
        self.counts = counts
        self.firsts = firsts
        self._memory = memory
        self._offset = offset
        self._step = step
        self._n_block = n_block
        self._lease = lease

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def part(self, start: int, stop: int | None = None) -> PackedRun:
        """Some of the frames, as a view."""
        return PackedRun(
            self.layout,
            self._memory,
            self._offset + start * self._step,
            self._step,
            self._n_block,
            self.frames[start:stop],
            self.counts[start:stop],
            self.firsts[start:stop],
            self._lease,
            self.shared,
        )

    def items(self) -> Iterator[tuple[int, PackedEvents]]:
        """Index and events of each frame, as views."""
        for number, frame in enumerate(self.frames.tolist()):
            yield frame, self._events(number)

    def last_item(self) -> tuple[int, PackedEvents]:
        """Index and events of the last frame."""
        return int(self.frames[-1]), self._events(len(self.frames) - 1)

    def first_item(self) -> tuple[int, PackedEvents]:
        """Index and events of the first frame."""
        return int(self.frames[0]), self._events(0)

    def _events(self, number: int) -> PackedEvents:
        return PackedEvents(
            self.layout,
            self._memory,
            self._offset + number * self._step,
            self._n_block,
            {},
            self._lease,
            int(self.firsts[number]),
            int(self.counts[number]),
            self.shared,
        )

    def place(self, targets: list[Bytes], rows: Integers) -> None:
        """Copy all events to their rows.

        Parameters
        ----------
        targets
            Bytes of the scalar features of each event, shape (events, bytes), and of what each
            feature of `layout.arrays` has in a block.
        rows
            First row of each frame, shape (n,), increasing; rows of one frame follow each other.

        Raises
        ------
        UsageError
            The queue has taken the memory back.
        """
        if self._lease is not None and self._lease.is_over:
            raise UsageError(
                "PackedRun: expected to be read before the next call of get_runs of its queue, "
                "which takes the memory back, and before the queue is closed"
            )
        starts = (0, *self.layout.offsets(self._n_block))
        if self._step:
            self._place_blocks(targets, rows, starts)
        else:
            self._place_block(targets, rows, starts)

    def _place_blocks(self, targets: list[Bytes], rows: Integers, starts: tuple[int, ...]) -> None:
        n_frames, n_each = len(rows), self._n_block
        index: Any
        step = _step_of(rows)
        if step and n_each == 1:
            index = slice(int(rows[0]), int(rows[-1]) + 1, step)
        else:
            index = rows if n_each == 1 else rows[:, np.newaxis] + np.arange(n_each)
        for target, start in zip(targets, starts, strict=False):
            n_bytes = target.shape[1]
            shape = (n_frames, n_each, n_bytes)
            strides = (self._step, n_bytes, 1)
            source = np.ndarray(shape, np.uint8, self._memory, self._offset + start, strides)
            target[index] = source[:, 0] if n_each == 1 else source

    def _place_block(self, targets: list[Bytes], rows: Integers, starts: tuple[int, ...]) -> None:
        n_events = int(self.counts.sum())
        firsts = self.firsts - self.firsts[0]
        index: Any
        if (rows - firsts == rows[0]).all():
            index = slice(int(rows[0]), int(rows[0]) + n_events)
        else:  # frames that came by another way are in between
            index = np.repeat(rows - firsts, self.counts) + np.arange(n_events)
        for target, start in zip(targets, starts, strict=False):
            n_bytes = target.shape[1]
            offset = self._offset + start + int(self.firsts[0]) * n_bytes
            target[index] = np.ndarray((n_events, n_bytes), np.uint8, self._memory, offset)


def _step_of(rows: Integers) -> int:
    """Distance of rows that are equally far apart; 0: they are not."""
    if len(rows) == 1:
        return 1
    step = int(rows[1] - rows[0])
    return step if (np.diff(rows) == step).all() else 0
