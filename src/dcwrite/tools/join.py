"""Join: recordings one behind the other in one file, or in one that refers to them.

Alone here: what a join is from outside. Invariant: nothing is written before all inputs were found
to fit together; inputs are only read; the output appears when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DCWriteError, UsageError
from ..format.compression import Compression
from ..store.encoder import require_count
from ..store.hdf5 import storage_errors
from ..store.space import require_space
from ..store.whole_file import refuse_same_file, whole_file
from ..store.writer import HDF5Writer
from .job_log import job_lines, store_job_log
from .join_inputs import JoinInput, look_at
from .join_metadata import folded_lines
from .join_plan import FeatureChoice, JoinPlan, Offsets, Sort, plan_join
from .join_write import JoinWriter
from .origins import is_same_file, open_input, walk_basins
from .progress import Clock, Report

__all__ = ["JoinSummary", "JoinedInput", "join", "virtual_recording"]


@dataclass(frozen=True, slots=True)
class JoinedInput:
    """Where an input is in the output.

    Attributes
    ----------
    path
        The input.
    first_event, n_events
        Its events in the output.
    time_s, frame, index_online
        What was added to the features "time" [s], "frame" and "index_online".
    """

    path: Path
    first_event: int
    n_events: int
    time_s: float
    frame: int
    index_online: int


@dataclass(frozen=True, slots=True)
class JoinSummary:
    """What a join did.

    Attributes
    ----------
    path_out
        The joined recording.
    path_virtual
        The file beside it that refers to the images of the inputs; None: there is none.
    inputs
        The inputs in the order of the output.
    n_events
        Events of the output.
    features
        Features whose data are in the output.
    references
        Features that the output refers to.
    basins
        Names of the output's basins.
    notes
        What is worth knowing: differences between the inputs.
    omitted
        What the output does not have: features, basins, mappings.
    n_chunks_moved, n_chunks_recoded
        Chunks that were taken over as they are stored, and that were decoded.
    size_bytes_in, size_bytes_out
        Sizes of all inputs, and of the output with the file beside it.
    elapsed_s
        Wall time.
    """

    path_out: Path
    path_virtual: Path | None
    inputs: tuple[JoinedInput, ...]
    n_events: int
    features: tuple[str, ...]
    references: tuple[str, ...]
    basins: tuple[str, ...]
    notes: tuple[str, ...]
    omitted: tuple[str, ...]
    n_chunks_moved: int
    n_chunks_recoded: int
    size_bytes_in: int
    size_bytes_out: int
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        data = asdict(self)
        data["path_out"] = str(self.path_out)
        data["path_virtual"] = None if self.path_virtual is None else str(self.path_virtual)
        data["inputs"] = [{**asdict(item), "path": str(item.path)} for item in self.inputs]
        return data


def join(
    paths: Sequence[str | os.PathLike[str]],
    path_out: str | os.PathLike[str],
    *,
    sort: Sort = "time",
    offsets: Offsets = "start",
    features: FeatureChoice = "all",
    virtual: bool = False,
    allow_differences: bool = False,
    drop_basins: bool = False,
    basin_roots: Sequence[str | os.PathLike[str]] = (),
    compression: Compression | str = "archive",
    overwrite: bool = False,
    threads: int | None = None,
    progress: Report | None = None,
) -> JoinSummary:
    """Put recordings one behind the other.

    All that does not fit together is found before anything is written. Root attributes are those
    of the first input; event count and measurement identifier are its own, date and time are
    those of the input that began first. Logs and tables of input N are named "src-#N_NAME", its
    attributes are in the log "src-#N_cfg".

    Parameters
    ----------
    paths
        At least two recordings.
    path_out
        The joined recording; it appears when it is complete.
    sort
        time: by date, time and run index of the measurements; given: as given.
    offsets
        What is added to the features "time" and "frame". start: by how much later the
        measurement began than the first of all (for frames: times the frame rate); continue: each
        goes on where the one before ended; none: nothing. "index" counts from 1 to the number of
        events; "index_online" is raised where it would begin below the last of the input before
        (not with none).
    features
        all: every feature has to be in all inputs, alike; common: those that are not are left out.
    virtual
        Whether images and traces stay where they are, and the output refers to them. Where all
        are in one file, it does so by a mapping; else by a file beside it, NAME.virtual.h5.
    allow_differences
        Whether inputs are joined that were measured in different ways, or that have the same
        measurement identifier.
    drop_basins
        Whether basins are left out that not all inputs have, and that cannot be read here.
    basin_roots
        Folders below which file basins may be opened, besides those of the recordings.
    compression
        Settings, or the name of a preset; chunks that are compressed as well or better are taken
        over as they are.
    overwrite
        Whether to replace an existing output; a file NAME.virtual.h5 that it referred to, and the
        new one does not, is removed.
    threads
        Threads that decode and encode; default: the usable cores.
    progress
        Takes records of progress; the stages are "looking" [files] and "joining" [bytes].

    Raises
    ------
    MismatchError
        The inputs do not fit together, or some cannot be read; it has a line for each problem.
    UsageError
        Fewer than two inputs, or the output is one of them, or a file that they refer to.
    StorageError, DamagedFileError
        An input cannot be read, the output exists, or the disk refuses. Nothing was written.
    """
    require_count("threads", threads)
    if isinstance(paths, (str, os.PathLike)):
        raise UsageError(f"expected a list of recordings to join, got the path '{paths}'")
    sources, path_out = [Path(path) for path in paths], Path(path_out)
    if len(sources) < 2:
        raise UsageError(
            f"expected at least two recordings to join, got {len(sources)}; name one more"
        )
    refuse_same_file(path_out, sources)
    options = {
        "sort": sort,
        "offsets": offsets,
        "features": features,
        "virtual": virtual,
        "allow_differences": allow_differences,
        "drop_basins": drop_basins,
    }
    with ExitStack() as outputs:
        temporary = outputs.enter_context(whole_file(path_out, overwrite=overwrite))
        inputs, problems = _look_at_all(sources, basin_roots, progress)
        plan = plan_join(inputs, problems=problems, **options)  # type: ignore[arg-type]
        return _write(
            plan, path_out, temporary, outputs,
            options=options, basin_roots=basin_roots, compression=compression,
            overwrite=overwrite, threads=threads, progress=progress,
        )  # fmt: skip


def virtual_recording(
    path_out: str | os.PathLike[str],
    paths: Sequence[str | os.PathLike[str]],
    *,
    metadata: Mapping[str, Any] | None = None,
    logs: Mapping[str, Sequence[str]] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
) -> JoinSummary:
    """A recording that refers to its parts, with all values as they are in the parts.

    Parameters
    ----------
    path_out
        The recording; beside it comes a file NAME.virtual.h5.
    paths
        The parts, in order.
    metadata
        Root attributes over those of the first part.
    logs
        Logs by name.
    overwrite
        Whether to replace existing files.
    threads
        Threads that decode and encode.

    Raises
    ------
    MismatchError
        Features or shapes differ, or a part cannot be read.
    StorageError
        The output exists, or the disk refuses.
    """
    require_count("threads", threads)
    path_out = Path(path_out)
    refuse_same_file(path_out, paths)
    with ExitStack() as outputs:
        temporary = outputs.enter_context(whole_file(path_out, overwrite=overwrite))
        inputs, problems = _look_at_all([Path(path) for path in paths], (), None)
        plan = plan_join(
            inputs, sort="given", offsets="none", allow_differences=True, virtual=True,
            renumber=False, problems=problems,
        )  # fmt: skip
        return _write(
            plan, path_out, temporary, outputs,
            options=None, basin_roots=(), compression="archive", overwrite=overwrite,
            threads=threads, progress=None, metadata=metadata, logs=logs,
        )  # fmt: skip


def _look_at_all(
    paths: Sequence[Path],
    basin_roots: Sequence[str | os.PathLike[str]],
    progress: Report | None,
) -> tuple[list[JoinInput], list[str]]:
    """What can be joined, and what is wrong with the others."""
    clock = Clock("looking", len(paths), "files", progress)
    inputs, problems = [], []
    for number, path in enumerate(paths):
        try:
            inputs.append(look_at(path, basin_roots))
        except (DCWriteError, OSError) as exc:
            problems.append(_problem(exc, path))
        clock.show(number + 1)
    return inputs, problems


def _problem(exc: Exception, path: Path) -> str:
    """An error of an input in one line, with what to do about it."""
    if isinstance(exc, OSError) and exc.strerror:
        remedy = "" if ";" in exc.strerror else "; check the name and the permissions"
        return f"'{exc.filename or path}': {exc.strerror}{remedy}"
    text = str(exc)
    return text if path.name in text else f"'{path}': {text}"


def _write(
    plan: JoinPlan,
    path_out: Path,
    temporary: Path,
    outputs: ExitStack,
    *,
    options: Mapping[str, Any] | None,
    basin_roots: Sequence[str | os.PathLike[str]],
    compression: Compression | str,
    overwrite: bool,
    threads: int | None,
    progress: Report | None,
    metadata: Mapping[str, Any] | None = None,
    logs: Mapping[str, Sequence[str]] | None = None,
) -> JoinSummary:
    path_virtual = temporary_virtual = None
    if plan.names("virtual"):
        path_virtual = _virtual_path(path_out)
        temporary_virtual = outputs.enter_context(whole_file(path_virtual, overwrite=overwrite))
    stale = None if path_virtual else _virtual_of(path_out, [item.path for item in plan.inputs])
    size_in = sum(item.size_bytes for item in plan.inputs)
    joiner = JoinWriter(plan, path_out, basin_roots, path_virtual)
    require_space(path_out, 0 if path_virtual or plan.names("mapped") else size_in)
    clock = Clock("joining", joiner.total_bytes(), "bytes", progress)
    with HDF5Writer(
        temporary, mode="x", compression=_settings(compression), threads=threads,
        scalar_attributes=True,
    ) as writer:  # fmt: skip
        joiner.store_events(writer, clock)
        writer.flush()
        basins = joiner.store_rest(writer)
        if metadata:
            writer.store_metadata(metadata)
        for name, lines in (logs or {}).items():
            writer.store_log(name, lines)
        if options is not None:
            paths = [item.path for item in plan.inputs]
            store_job_log(writer, "join", job_lines("join", options, paths))
            if notes := [*plan.omitted, *plan.notes]:
                writer.store_log("dcwrite-join-notes", folded_lines(notes))
        attributes = dict(writer.h5.attrs)
    if temporary_virtual is not None:
        with HDF5Writer(temporary_virtual, mode="x") as writer:
            joiner.store_virtual(writer, attributes)
    clock.show(joiner.total_bytes())
    size_out = temporary.stat().st_size
    if temporary_virtual is not None:
        size_out += temporary_virtual.stat().st_size
    outputs.close()  # now they appear
    if stale is not None:
        with storage_errors(stale, "removing the file that the old output referred to"):
            stale.unlink(missing_ok=True)
    references = {name for name, way in plan.features.items() if way != "stored"}
    references.update(feat for linked in plan.linked for feat in linked[0].features)
    references.difference_update(name.partition("/")[0] for name in plan.names("stored"))
    return JoinSummary(
        path_out=path_out,
        path_virtual=path_virtual,
        inputs=tuple(_joined_inputs(plan)),
        n_events=plan.n_events,
        features=tuple(plan.names("stored")),
        references=tuple(sorted(references)),
        basins=tuple(basin.name for basin in basins),
        notes=plan.notes,
        omitted=plan.omitted,
        n_chunks_moved=joiner.n_moved,
        n_chunks_recoded=joiner.n_recoded,
        size_bytes_in=size_in,
        size_bytes_out=size_out,
        elapsed_s=clock.elapsed_s,
    )


def _virtual_path(path_out: Path) -> Path:
    return path_out.with_name(f"{path_out.stem}.virtual.h5")


def _virtual_of(path_out: Path, inputs: Sequence[Path]) -> Path | None:
    """The file beside an old output that belongs to it alone, and goes with it.

    Parameters
    ----------
    path_out
        The output that will be replaced; need not exist.
    inputs
        Recordings that will be joined; what they refer to stays.
    """
    path = _virtual_path(path_out)
    if not path.is_file() or not path_out.exists() or not _refers(path_out, path):
        return None
    if any(is_same_file(item, path) or _refers(item, path) for item in inputs):
        return None
    return path


def _refers(path: Path, target: Path) -> bool:
    """Whether basins of a file lead to another one."""
    try:
        with open_input(path) as recording:
            return any(is_same_file(found, target) for _, _, found in walk_basins(recording))
    except (DCWriteError, OSError):
        return False


def _settings(compression: Compression | str) -> Compression:
    return Compression.preset(compression) if isinstance(compression, str) else compression


def _joined_inputs(plan: JoinPlan) -> list[JoinedInput]:
    found, first = [], 0
    for item, shift in zip(plan.inputs, plan.shifts, strict=True):
        found.append(
            JoinedInput(
                item.path, first, item.n_events, shift.time_s, shift.frame, shift.index_online
            )
        )
        first += item.n_events
    return found
