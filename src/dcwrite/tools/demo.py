"""The demonstration: simulated cells flow through worker processes into a recording.

Alone here: what the demonstration consists of. Invariant: the recording appears only after all
frames are written and every chunk of it was read back right.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..errors import DamagedFileError, UsageError
from ..simulate import SimulatedRecording, SimulationSettings, scrambled_frames
from ..store.describe import Description, describe
from ..store.verify import verify
from ..store.whole_file import whole_file
from ..store.writer import HDF5Writer
from .progress import Clock, Report
from .workers import Frames, write_frames

__all__ = ["DemoSummary", "default_workers", "require_workers", "run_demo"]

#: Frames that a worker takes at a time.
FRAMES_PER_BLOCK: Final = 16
#: Frames that are further apart than simulated delays (64 frames) go into different blocks.
WIDEST_JUMP: Final = 128


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What the demonstration did.

    Attributes
    ----------
    description
        The recording.
    n_frames, n_events, n_workers
        What flowed through how many worker processes.
    writing_s, verifying_s
        Wall time of the stages, starting and ending of the processes included.
    n_chunks
        Chunks that were read back and found right.
    """

    description: Description
    n_frames: int
    n_events: int
    n_workers: int
    writing_s: float
    verifying_s: float
    n_chunks: int


@dataclass(frozen=True, slots=True)
class _SimulatedFrames:
    """Frames of a simulated recording, which every worker process makes for itself."""

    settings: SimulationSettings

    def deliver(self, blocks: Iterable[Frames]) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        recording = SimulatedRecording(self.settings)
        for block in blocks:
            for frame in block.tolist():
                events = recording.frame_events(frame)
                if events is not None:
                    n_events = len(events["deform"])
                    events["nevents"] = np.full(n_events, n_events, dtype=np.uint32)
                yield frame, events


def default_workers() -> int:
    """Number of worker processes: the usable cores, but 2 to 4."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(max(usable or 2, 2), 4)


def require_workers(workers: int) -> None:
    """Refuse a number of workers that makes no sense.

    Raises
    ------
    UsageError
        Below 1 or above 64.
    """
    if not 1 <= workers <= 64:
        raise UsageError(f"workers: expected 1 to 64 processes, got {workers}")


def run_demo(
    path_out: str | os.PathLike[str],
    settings: SimulationSettings,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Report | None = None,
) -> DemoSummary:
    """Simulate a recording, stream it through worker processes, write and verify it.

    Parameters
    ----------
    path_out
        The recording; it appears when it is complete and verified.
    settings
        What to simulate.
    workers
        Number of worker processes; None: `default_workers`.
    overwrite
        Whether to replace an existing file.
    progress
        Takes records of progress; the stages are "writing" [events] and "verifying" [bytes].

    Raises
    ------
    StorageError
        The output exists already, or the disk refuses.
    WriterDiedError
        A process was killed.
    DamagedFileError
        What was read back is not right.
    """
    workers = default_workers() if workers is None else workers
    require_workers(workers)
    with whole_file(path_out, overwrite=overwrite) as temporary:
        recording = SimulatedRecording(settings)
        writing = Clock("writing", int(recording.nevents().sum()), "events", progress)
        n_events, n_frames = write_frames(
            temporary,
            _SimulatedFrames(settings),
            _deal(settings.frames, workers, settings.seed),
            settings.frames,
            clock=writing,
            event_count=True,
            scalar_attributes=True,
            frame_info=False,  # a finished recording has no use for "index_unmapped"
        )
        with HDF5Writer(temporary, mode="r+") as writer:
            writer.store_metadata(recording.metadata())
            for name, lines in recording.logs().items():
                writer.store_log(name, lines)
        writing_s = writing.elapsed_s
        verifying = Clock("verifying", temporary.stat().st_size, "bytes", progress)
        report = verify(temporary, progress=lambda current, _size: verifying.show(current))
        if report.exit_code:
            raise DamagedFileError(
                f"'{path_out}': what was read back is not right ({len(report.findings)} "
                f"findings; the first: {report.findings[0]}); the file was not kept"
            )
    return DemoSummary(
        description=describe(path_out),
        n_frames=n_frames,
        n_events=n_events,
        n_workers=workers,
        writing_s=writing_s,
        verifying_s=verifying.elapsed_s,
        n_chunks=report.n_chunks,
    )


def _deal(n_frames: int, workers: int, seed: int) -> list[list[Frames]]:
    """Blocks of neighbouring frames for each worker, out of order."""
    work = []
    for frames in map(np.array, scrambled_frames(n_frames, workers, seed)):
        jumps = np.flatnonzero(np.abs(np.diff(frames)) > WIDEST_JUMP) + 1
        work.append(
            [
                run[start : start + FRAMES_PER_BLOCK]
                for run in np.split(frames, jumps)
                for start in range(0, len(run), FRAMES_PER_BLOCK)
            ]
        )
    return work
