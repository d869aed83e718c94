"""Made-up events that any process makes again, and the file that one machine writes of them.

Alone here: what a frame holds. It depends on the number of the frame only.
"""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dcwrite import QueueWriterThread, Recording, verify
from dcwrite.stream.queue_writer_base import mp_spawn

__all__ = ["MadeUp", "same_events", "write_on_one_machine"]

Item = tuple[int, dict[str, Any] | None]


@dataclass(frozen=True)
class MadeUp:
    """A function that computes events; it can be pickled.

    Parameters
    ----------
    most
        Most events of a frame.
    kinds
        Whether there are traces and contours, too.
    backwards
        Whether each range comes in the wrong order.
    kill_at
        Frames at which the process that computes them kills itself, once: a file in `folder`
        remembers that it did.
    fail_at
        Frames that raise.
    folder
        For `kill_at`.
    """

    most: int = 4
    kinds: bool = False
    backwards: bool = False
    kill_at: tuple[int, ...] = ()
    fail_at: tuple[int, ...] = ()
    folder: str = ""

    def n_events(self, frame: int) -> int:
        """Number of events of a frame."""
        return int(np.random.default_rng([7, frame]).integers(0, self.most + 1))

    def events(self, frame: int) -> dict[str, Any] | None:
        """Events of a frame."""
        n_events = self.n_events(frame)
        if not n_events:
            return None
        rng = np.random.default_rng([8, frame])
        events: dict[str, Any] = {
            "deform": rng.random(n_events),
            "area_um": rng.random(n_events).astype(np.float32),
            "frame": np.full(n_events, frame, dtype=np.uint64),
            "image": rng.integers(0, 9, (n_events, 40, 60), dtype=np.uint8),
            "mask": rng.random((n_events, 40, 60)) < 0.3,
        }
        if self.kinds:
            events["trace"] = {
                name: rng.integers(-5, 5, (n_events, 30), dtype=np.int16)
                for name in ("fl1_raw", "fl2_raw")
            }
            events["contour"] = [
                rng.integers(0, 60, (int(rng.integers(3, 9)), 2)) for _ in range(n_events)
            ]
        return events

    def __call__(self, frames: range) -> Iterator[Item]:
        """Compute a range."""
        for frame in reversed(frames) if self.backwards else frames:
            if frame in self.fail_at:
                raise RuntimeError(f"no luck with frame {frame}")
            if frame in self.kill_at:
                with suppress(FileExistsError):
                    (Path(self.folder) / f"killed-{frame}").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            yield frame, self.events(frame)


def write_on_one_machine(path: Path, made_up: MadeUp, n_frames: int) -> Path:
    """What a queue writer makes of the same frames."""
    counts = np.array([made_up.n_events(frame) for frame in range(n_frames)], dtype=np.int64)
    events: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for frame in range(n_frames):
        events.put((frame, made_up.events(frame)))
    size = mp_spawn.RawValue("L", 0)
    QueueWriterThread(events, size, counts, path, event_count=True).run()
    return path


def same_events(path: Path, expected: Path, *, roots: tuple[Path, ...] = ()) -> None:
    """Compare all features, byte for byte and in order; the file is right."""
    assert [str(finding) for finding in verify(path, basin_roots=roots).findings] == []
    with (
        Recording(path, basin_roots=roots) as ours,
        Recording(expected, basin_roots=roots) as theirs,
    ):
        assert ours.features == theirs.features
        assert len(ours) == len(theirs)
        for name in ours.features:
            _same(name, ours[name], theirs[name])


def _same(name: str, ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            _same(f"{name}/{key}", ours[key], theirs[key])
    elif hasattr(theirs, "dtype"):
        assert ours.dtype == theirs.dtype, name
        assert ours.shape == theirs.shape, name
        assert ours[:].tobytes() == theirs[:].tobytes(), name
    else:
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == other.dtype
            assert np.array_equal(mine, other), name
