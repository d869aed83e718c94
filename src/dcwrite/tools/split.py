"""Split: a recording in parts of so many events, or at given times.

Alone here: where one part ends, and what each part has of what belongs to all. Invariant: every
event is in exactly one part; all parts appear when all are complete, or none.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError, StorageError, UsageError
from ..format.compression import Compression
from ..store.encoder import require_count
from ..store.recording import Recording
from ..store.space import require_space
from ..store.whole_file import whole_file
from ..store.writer import HDF5Writer
from .batch import Batch, Executor, Finished, run_batch
from .folders import output_folder
from .origins import open_input, refuse_origins
from .progress import Clock, Report
from .split_write import PartWriter

__all__ = ["DEFAULT_EVENTS", "SplitPart", "SplitSummary", "split", "split_many"]

#: Events per part where nothing else is asked for, as in dclab-split.
DEFAULT_EVENTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class SplitPart:
    """One part.

    Attributes
    ----------
    path
        The file.
    first_event, n_events
        Its events in the input.
    size_bytes
        Size of the file.
    """

    path: Path
    first_event: int
    n_events: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """What a split did.

    Attributes
    ----------
    path_in
        The recording.
    parts
        The parts in order.
    n_events
        Events of the input, and of all parts together.
    references
        Features that the parts refer to the input for.
    notes
        What is worth knowing.
    n_chunks_moved, n_chunks_recoded
        Chunks that were taken over as they are stored, and that were decoded.
    size_bytes_in, size_bytes_out
        Sizes of the input and of all parts.
    elapsed_s
        Wall time.
    """

    path_in: Path
    parts: tuple[SplitPart, ...]
    n_events: int
    references: tuple[str, ...]
    notes: tuple[str, ...]
    n_chunks_moved: int
    n_chunks_recoded: int
    size_bytes_in: int
    size_bytes_out: int
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        data = asdict(self)
        data["path_in"] = str(self.path_in)
        data["parts"] = [{**asdict(part), "path": str(part.path)} for part in self.parts]
        return data


def split(
    path_in: str | os.PathLike[str],
    out_dir: str | os.PathLike[str] | None = None,
    *,
    events: int | None = None,
    times: Iterable[float] | None = None,
    every: float | None = None,
    link: bool = False,
    basin_roots: Sequence[str | os.PathLike[str]] = (),
    compression: Compression | str = "archive",
    overwrite: bool = False,
    threads: int | None = None,
    progress: Report | None = None,
) -> SplitSummary:
    """Cut a recording into parts NAME_0001.rtdc, NAME_0002.rtdc, ...

    Each part has all metadata, logs, tables and unknown groups of the recording, its own event
    count, and a measurement identifier that begins with that of the recording. Features keep
    their values ("time", "frame", "index_online" too), but "index" counts from 1 in each part.

    Parameters
    ----------
    path_in
        The recording; it is only read.
    out_dir
        Folder for the parts, made if it is not there; None: that of the recording.
    events
        Events per part; the last one has the rest. At most one of `events`, `times` and `every`;
        none: 10000 events.
    times
        Times [s] at which a new part begins, in the feature "time"; an event at such a time
        belongs to the new part.
    every
        Seconds per part, counted from time 0.
    link
        Whether images and contours stay in the recording, and the parts refer to them.
    basin_roots
        Folders below which file basins may be opened, besides the recording's own.
    compression
        Settings, or the name of a preset; chunks that are compressed as well or better are taken
        over as they are.
    overwrite
        Whether to replace existing parts.
    threads
        Threads that decode and encode; default: the usable cores.
    progress
        Takes records of progress; the stage is "splitting" [bytes].

    Raises
    ------
    UsageError
        The options do not fit, or a part is the recording, or a file that it refers to.
    DataError
        There are no events, or no times that increase.
    RecordingError
        The recording is inconsistent.
    StorageError, DamagedFileError
        The recording cannot be read, parts exist, or the disk refuses. No part was written.
    """
    require_count("threads", threads)
    path_in = Path(path_in)
    folder = path_in.parent if out_dir is None else Path(out_dir)
    if sum(value is not None for value in (events, times, every)) > 1:
        raise UsageError("expected one of events, times and every, got several; choose one")
    if times is None and every is None:
        events = _whole_number(events)
    starts = None if times is None else [float(value) for value in times]
    with open_input(path_in, tuple(basin_roots)) as recording:
        recording.check_consistent()
        bounds, notes = _bounds(recording, events, starts, every)
        paths = _part_paths(path_in, folder, len(bounds))
        for path in paths:
            refuse_origins(path, recording)
        notes += _refuse_existing(paths, overwrite=overwrite)
        options = {"events": events, "times": starts, "every": every, "link": link}
        splitter = PartWriter(recording, folder, options, link=link)
        require_space(paths[0], 0 if link else path_in.stat().st_size)
        clock = Clock("splitting", splitter.total_bytes(), "bytes", progress)
        settings = Compression.preset(compression) if isinstance(compression, str) else compression
        with output_folder(folder), _all_or_none(paths, overwrite=overwrite) as temporaries:
            for number, (temporary, (first, stop)) in enumerate(
                zip(temporaries, bounds, strict=True), 1
            ):
                with HDF5Writer(
                    temporary, mode="x", compression=settings, threads=threads,
                    scalar_attributes=True,
                ) as writer:  # fmt: skip
                    splitter.write(writer, number, len(bounds), first, stop, clock)
        parts = tuple(
            SplitPart(path, first, stop - first, path.stat().st_size)
            for path, (first, stop) in zip(paths, bounds, strict=True)
        )
        clock.show(splitter.total_bytes())
        return SplitSummary(
            path_in=path_in,
            parts=parts,
            n_events=len(recording),
            references=tuple(splitter.references),
            notes=tuple(notes),
            n_chunks_moved=splitter.n_moved,
            n_chunks_recoded=splitter.n_recoded,
            size_bytes_in=path_in.stat().st_size,
            size_bytes_out=sum(part.size_bytes for part in parts),
            elapsed_s=clock.elapsed_s,
        )


def split_many(
    paths: Iterable[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str] | None = None,
    *,
    jobs: int = 1,
    threads: int | None = None,
    progress: Report | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Batch:
    """Split several recordings; an error of one is its outcome, and the others go on.

    Parameters
    ----------
    paths
        The recordings.
    out_dir
        Folder for all parts, made if it is not there; None: beside each recording.
    jobs, threads, executor
        As for `run_batch`.
    progress
        Takes records of progress; the stage is "splitting" [bytes].
    **options
        As for `split`.

    Raises
    ------
    UsageError
        The parts of two recordings would have the same names.
    KeyboardInterrupt
        When all work has ended.
    """
    inputs = [Path(path) for path in paths]
    taken: dict[Path, Path] = {}
    for path in inputs:
        first = (path.parent if out_dir is None else Path(out_dir)) / _stem(path)
        key = Path(os.path.normcase(first.resolve()))
        if key in taken:
            raise UsageError(
                f"'{path}' and '{taken[key]}': parts of both would be named '{first.name}_...'; "
                f"split them into different folders (nothing was done)"
            )
        taken[key] = path
    task = partial(_split_one, out_dir=out_dir, options=options)
    with nullcontext() if out_dir is None else output_folder(Path(out_dir)):
        return run_batch(
            task, inputs, jobs=jobs, threads=threads, stage="splitting", progress=progress,
            executor=executor,
        )  # fmt: skip


def _split_one(
    path: Path,
    *,
    threads: int | None,
    progress: Report | None,
    out_dir: str | os.PathLike[str] | None,
    options: dict[str, Any],
) -> Finished:
    summary = split(path, out_dir, threads=threads, progress=progress, **options)
    return Finished(summary, outputs=tuple(part.path for part in summary.parts))


# -- where parts end --------------------------------------------------------------------------


def _whole_number(events: int | None) -> int:
    if events is None:
        return DEFAULT_EVENTS
    if isinstance(events, bool) or not isinstance(events, (int, np.integer)) or events < 1:
        raise UsageError(f"events: expected a whole number from 1, got {events!r}")
    return int(events)


def _bounds(
    recording: Recording,
    events: int | None,
    times: Sequence[float] | None,
    every: float | None,
) -> tuple[list[tuple[int, int]], list[str]]:
    """First event of each part, and of the next; notes."""
    n_events, notes = len(recording), []
    if not n_events:
        raise DataError(
            f"'{recording.path}': expected events to split, got none; there is nothing to do"
        )
    if events is not None:
        edges = np.arange(0, n_events, events)
    elif every is not None:
        if not every > 0 or not np.isfinite(every):
            raise UsageError(f"every: expected seconds above 0, got {every!r}")
        number = np.floor(_times_of(recording) / every)
        edges = np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1])
    else:
        wanted = np.asarray(times, dtype=np.float64)
        if not wanted.size or not np.all(np.isfinite(wanted)) or np.any(np.diff(wanted) <= 0):
            raise UsageError(
                f"times: expected seconds, each later than the one before, got {wanted.tolist()}"
            )
        found = np.searchsorted(_times_of(recording), wanted, side="left")
        edges = np.unique([0, *found[found < n_events]])
        if (n_empty := len(wanted) + 1 - len(edges)) > 0:
            notes.append(f"{n_empty} of {len(wanted) + 1} parts would have no events: not written")
    stops = [*edges[1:].tolist(), n_events]
    return list(zip(edges.tolist(), stops, strict=True)), notes


def _times_of(recording: Recording) -> npt.NDArray[np.float64]:
    """Seconds since the start of the measurement, which never decrease."""
    rate = recording.metadata.get("imaging:frame rate")
    if "time" in recording:
        times = recording["time"][:].astype(np.float64)
    elif "frame" in recording and isinstance(rate, (int, float)) and rate > 0:
        times = recording["frame"][:] / rate
    else:
        raise DataError(
            f"'{recording.path}': expected the feature 'time', or 'frame' and the attribute "
            f"'imaging:frame rate', got neither; split by numbers of events (events, --events)"
        )
    if not np.all(np.diff(times) >= 0):  # also where one is not a number
        place = int(np.argmin(np.diff(times) >= 0)) + 1
        raise DataError(
            f"'{recording.path}': expected times that never decrease, got {times[place]:g} s "
            f"after {times[place - 1]:g} s at event {place}; split by numbers of events "
            f"(events, --events)"
        )
    return np.asarray(times, dtype=np.float64)


# -- names --------------------------------------------------------------------------------------


def _stem(path: Path) -> str:
    return path.name.removesuffix(".rtdc")


def _part_paths(path_in: Path, folder: Path, n_parts: int) -> list[Path]:
    stem = _stem(path_in)
    width = max(4, len(str(n_parts)))
    return [folder / f"{stem}_{number:0{width}d}.rtdc" for number in range(1, n_parts + 1)]


def _refuse_existing(paths: Sequence[Path], *, overwrite: bool) -> list[str]:
    """Refuse parts that exist; notes about parts of an earlier split that stay."""
    names = {path.name for path in paths}
    if not paths[0].parent.is_dir():
        return []
    pattern = re.compile(re.escape(paths[0].name.rpartition("_")[0]) + r"_\d{4,}\.rtdc")
    there = sorted(path.name for path in paths[0].parent.iterdir() if pattern.fullmatch(path.name))
    existing = [path.name for path in paths if os.path.lexists(path)]
    if existing and not overwrite:
        raise StorageError(
            errno.EEXIST,
            f"{len(existing)} of {len(paths)} parts exist already ({_some(existing)}); pass "
            f"overwrite=True (--overwrite), or choose another folder",
            str(paths[0].parent),
        )
    others = [name for name in there if name not in names]
    if not others:
        return []
    return [f"files with names like parts were there before, and are none: {_some(others)}"]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@contextmanager
def _all_or_none(paths: Sequence[Path], *, overwrite: bool) -> Iterator[list[Path]]:
    """Temporary paths of all parts, which get their names together at the end.

    Parameters
    ----------
    paths
        Names of the parts.
    overwrite
        Whether they may replace files.
    """
    new = {path for path in paths if not os.path.lexists(path)}
    with ExitStack() as stack:
        # what is entered last is renamed first
        temporaries = [
            stack.enter_context(whole_file(path, overwrite=overwrite)) for path in reversed(paths)
        ][::-1]
        yield temporaries
        ours = {path: temporary.stat() for path, temporary in zip(paths, temporaries, strict=True)}
        try:
            stack.close()
        except BaseException:
            for path in new:
                with suppress(OSError):
                    if os.path.samestat(path.stat(), ours[path]):
                        path.unlink()
            raise
