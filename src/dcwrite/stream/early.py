"""EarlyFrames: frames that came before their turn, in memory or in a file without a name.

Alone here: which frames wait, and where. Invariant: what comes out is what went in; the memory is
bounded, whatever the number of frames; nothing is left on the disk, also after a kill.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import StorageError
from ..store.compact_rows import CompactRows
from .packing import Layout, PackedEvents

__all__ = ["EarlyFrames", "size_bytes"]


class _Segment:
    """One file without a name; its room is given back when its last frame has been read."""

    def __init__(self, folder: Path | str | None) -> None:
        self.file: BinaryIO = tempfile.TemporaryFile(  # noqa: SIM115 - closed with its last frame
            prefix="dcwrite-early-", dir=folder, buffering=0
        )
        self.end = 0
        self.n_frames = 0


class _Spooled(NamedTuple):
    """Where a frame is."""

    segment: _Segment
    offset: int
    #: None: everything is pickled
    layout: Layout | None
    n_events: int
    block_bytes: int
    pickled_bytes: int


class EarlyFrames:
    """Frames that wait for their turn.

    Parameters
    ----------
    budget_bytes
        Memory that they may take; what is more goes to a file.
    spool_dir
        Folder of that file; None: the system's folder for temporary files.
    """

    def __init__(self, budget_bytes: int, spool_dir: Path | str | None = None) -> None:
        self._budget_bytes = budget_bytes
        self._spool_dir = spool_dir
        self._frames: dict[int, Any] = {}
        self._held_bytes = 0
        #: a new file is begun after that many bytes
        self._segment_bytes = 4 * budget_bytes
        self._segment: _Segment | None = None
        self._n_spooled = 0

    @property
    def held_bytes(self) -> int:
        """Memory that the frames take, in bytes."""
        return self._held_bytes

    @property
    def n_spooled(self) -> int:
        """Number of frames in the file."""
        return self._n_spooled

    def __len__(self) -> int:
        """Number of frames that wait."""
        return len(self._frames)

    def __contains__(self, frame: int) -> bool:
        """Whether this frame waits, with events or without."""
        return frame in self._frames

    def has_events(self, frame: int) -> bool:
        """Whether this frame waits and has features."""
        return bool(self._frames.get(frame))

    def in_range(self, first: int, stop: int) -> list[int]:
        """Give the frames of a range that wait, sorted."""
        if stop - first <= len(self._frames):
            return [frame for frame in range(first, stop) if frame in self._frames]
        return sorted(frame for frame in self._frames if first <= frame < stop)

    def add(self, frame: int, events: Mapping[str, Any] | None) -> None:
        """Keep a frame.

        Raises
        ------
        StorageError
            There is no room left, neither in the budget nor on the disk.
        """
        if not events:
            self._frames[frame] = events
            return
        n_bytes = size_bytes(events)
        if self._held_bytes + n_bytes > self._budget_bytes:
            self._frames[frame] = self._spool(events)
            self._n_spooled += 1
            return
        if isinstance(events, PackedEvents):
            events = events.copy()  # they are a view of the queue's memory
        self._frames[frame] = events
        self._held_bytes += n_bytes

    def pop(self, frame: int) -> Any:
        """Take a frame out.

        Raises
        ------
        StorageError
            It cannot be read back.
        """
        found = self._frames.pop(frame)
        if isinstance(found, _Spooled):
            events = self._read_back(found)
            self._n_spooled -= 1
            segment = found.segment
            segment.n_frames -= 1
            if not segment.n_frames:
                segment.file.close()
                if segment is self._segment:
                    self._segment = None
            return events
        if found:
            self._held_bytes -= size_bytes(found)
        return found

    def close(self) -> None:
        """Let go of all frames, and of the files."""
        for found in self._frames.values():
            if isinstance(found, _Spooled):
                found.segment.file.close()
        self._frames.clear()
        self._held_bytes = self._n_spooled = 0
        self._segment = None

    def _spool(self, events: Mapping[str, Any]) -> _Spooled:
        layout, n_events, block = None, 0, b""
        beside: tuple[Mapping[str, Any], Mapping[int, Any]] = (events, {})
        if isinstance(events, PackedEvents):
            layout, n_events = events.layout, events.n_events
            block, beside = bytes(events.block()), (events.rest, events.own_shared())
        pickled = pickle.dumps(beside, protocol=5) if any(beside) else b""
        try:
            if self._segment is None or self._segment.end > self._segment_bytes:
                self._segment = _Segment(self._spool_dir)
            segment = self._segment
            segment.file.seek(segment.end)
            for part in (block, pickled):
                _write_all(segment.file, part)
        except OSError as exc:
            raise self._explained(exc) from exc
        spooled = _Spooled(segment, segment.end, layout, n_events, len(block), len(pickled))
        segment.end += len(block) + len(pickled)
        segment.n_frames += 1
        return spooled

    def _read_back(self, spooled: _Spooled) -> Any:
        file = spooled.segment.file
        try:
            file.seek(spooled.offset)
            data = _read_all(file, spooled.block_bytes + spooled.pickled_bytes)
        except OSError as exc:
            raise self._explained(exc) from exc
        memory = memoryview(data)
        # what this process wrote into a file without a name
        pickled = memory[spooled.block_bytes :]
        rest, shared = pickle.loads(pickled) if pickled else ({}, {})  # noqa: S301
        if spooled.layout is None:
            return rest
        return PackedEvents(
            spooled.layout, memory.toreadonly(), 0, spooled.n_events, rest, shared=shared
        )

    def _explained(self, exc: OSError) -> StorageError:
        folder = self._spool_dir or tempfile.gettempdir()
        return StorageError(
            exc.errno,
            f"frames that come before their turn are kept in '{folder}' beyond "
            f"{self._budget_bytes} bytes, which failed: {exc.strerror or exc}; make room there, "
            f"pass a larger memory_budget, or let the workers stay closer together",
            os.fspath(folder),
        )


def size_bytes(value: Any, object_bytes: int = 200) -> int:
    """Estimate the memory that events take, in bytes; `object_bytes` for each object by itself."""
    if isinstance(value, (np.ndarray, PackedEvents, CompactRows)):
        return int(value.nbytes) + object_bytes
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return sum(size_bytes(item, object_bytes) for item in value) + object_bytes
    return object_bytes


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _read_all(file: BinaryIO, n_bytes: int) -> bytes:
    parts: list[bytes] = []
    while n_bytes:
        part = file.read(n_bytes)
        if not part:
            raise OSError(5, "the file is shorter than what was written")
        parts.append(part)
        n_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
