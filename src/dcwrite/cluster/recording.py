"""write_recording: one recording from many workers.

Alone here: the order of things in the program that asks. Invariant: the recording appears when it
is complete; what is complete of one that failed stays, and is used by the next run.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._version import __version__
from ..errors import StorageError, UsageError
from ..format.compression import Compression
from ..format.metadata import check_metadata
from ..store.encoder import require_count
from ..store.whole_file import whole_file
from ..store.writer import HDF5Writer
from ..tools.join import virtual_recording
from ..tools.progress import Report
from .executor import ClusterExecutor, Executor
from .fingerprint import fingerprint
from .job import Job, common_features
from .part import Part
from .pieces import require_visible
from .run import Process, Run, Settings, open_run

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ClusterSummary", "write_recording"]

#: Log of the recording that says how it was made.
CLUSTER_LOG: Final = "dcwrite-cluster"
#: Bytes of events that may wait to be sorted in each task.
MEMORY_BUDGET: Final = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class ClusterSummary:
    """What was done.

    Attributes
    ----------
    path
        The recording.
    run
        Identifier of the run.
    n_frames, n_events, n_features
        What is in it.
    n_ranges, n_resumed
        Ranges of frames, and how many of them an earlier run had written.
    n_pieces
        Pieces that were joined; 0 for a virtual one.
    n_moved, n_recoded
        Chunks that were moved as stored bytes, and others, when they were joined.
    hosts
        Machines that worked.
    has_locks
        Whether HDF5's file locks work where the shards are; else they were not used.
    shards_dir
        Folder of the shards; None: they were removed.
    computing_s, aligning_s, joining_s
        Wall time of the stages.
    busy_s
        Time that the workers took, all together.
    """

    path: Path
    run: str
    n_frames: int
    n_events: int
    n_features: int
    n_ranges: int
    n_resumed: int
    n_pieces: int
    n_moved: int
    n_recoded: int
    hosts: tuple[str, ...]
    has_locks: bool
    shards_dir: Path | None
    computing_s: float
    aligning_s: float
    joining_s: float
    busy_s: float

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        content = asdict(self)
        content["path"] = str(self.path)
        content["shards_dir"] = None if self.shards_dir is None else str(self.shards_dir)
        content["hosts"] = list(self.hosts)
        return content


def write_recording(
    path_out: str | os.PathLike[str],
    n_frames: int,
    process: Process,
    client: Client | Executor,
    *,
    frames_per_range: int | None = None,
    shards_dir: str | os.PathLike[str] | None = None,
    virtual: bool = False,
    resume: bool = True,
    identity: str | None = None,
    compression: Compression | str = "archive",
    frame_info: bool = True,
    scalar_attributes: bool = False,
    metadata: Mapping[str, Any] | None = None,
    logs: Mapping[str, Iterable[str]] | None = None,
    finish: Callable[[HDF5Writer], None] | None = None,
    memory_budget: int = MEMORY_BUDGET,
    retries: int = 0,
    keep_shards: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Report | None = None,
) -> ClusterSummary:
    """Compute the events of a recording on the workers of a Dask cluster, and write it.

    The frames are cut into ranges. A worker computes the events of a range and writes them into
    a shard, a recording of its own; shards become one recording. Its events are those that one
    machine would have written, whatever the number of workers, the size of the ranges, and the
    order in which they were done. A worker that is lost is replaced by another one, by Dask.

    Parameters
    ----------
    path_out
        The recording; it appears when it is complete.
    n_frames
        Number of frames.
    process
        Computes events: called on a worker with a `range` of frames, it gives ``(frame_index,
        events)`` for each frame of the range, once, in any order, as a generator or a list.
        `events` is a dict of arrays whose first axis is the event, or None. It is pickled; the
        same frames have to give the same events.
    client
        A `distributed.Client`, or an executor like those of `concurrent.futures`.
    frames_per_range
        Frames of a range; default: 4 ranges per worker, of 100 to 1000 frames; when a run is
        continued, those of that run.
    shards_dir
        Folder of the shards, the same path on all machines; default: "NAME.shards" beside the
        recording. Only whole files appear in it, by renaming; nothing is locked.
    virtual
        Whether the recording refers to the shards, which stay, for images and traces.
    resume
        Whether shards of an earlier run are used: those of the same run (`identity`, settings)
        that are whole and right. False: they are removed.
    identity
        Text that names what is computed (the input, the version of the analysis), by which runs
        are told apart. Default: a fingerprint of `process`: its source text, arguments and state,
        and what it refers to in its own module.
    compression
        Settings or the name of a preset ("archive", "fast", "none").
    frame_info
        Whether to add the features "index_unmapped" and "nevents".
    scalar_attributes
        As for `HDF5Writer`.
    metadata, logs
        What to store besides the events.
    finish
        Called with the open writer before the recording is closed; not with `virtual`.
    memory_budget
        Bytes of events that may wait on a worker, for each of its threads.
    retries
        How often a range whose `process` raised is tried again.
    keep_shards
        Whether the shards stay.
    overwrite
        Whether to replace an existing recording.
    threads
        Threads that join; default: the usable cores here.
    progress
        Takes records of progress; the stages are "computing" [frames], "aligning" [events] and
        "joining" [bytes].

    Returns
    -------
    ClusterSummary

    Raises
    ------
    ClusterError
        Ranges failed, all of which it lists (`failed_ranges`); the others stay for the next run.
        Or the cluster was lost.
    UsageError
        The folder holds shards of another run; arguments that do not fit, or a `process` that
        cannot be pickled.
    EventError
        Ranges do not have the same features; or not the same dtypes, with `virtual`.
    StorageError
        The recording exists, or the disk refuses.
    """
    require_count("threads", threads)
    path_out = Path(path_out).absolute()
    _refuse_arguments(
        path_out, n_frames, frames_per_range, memory_budget, finish, virtual=virtual,
        overwrite=overwrite,
    )  # fmt: skip
    metadata = check_metadata(metadata or {})
    executor: Any = client
    if hasattr(client, "get_executor"):
        executor = ClusterExecutor(executor, retries=retries)
    if isinstance(executor, ClusterExecutor):
        executor.require_portable("process", process)
    how = _compression(compression)
    settings = Settings(
        n_frames=n_frames,
        frames_per_range=0,
        frame_info=frame_info,
        level=how.level,
        fletcher32=how.fletcher32,
        virtual=virtual,
        identity=fingerprint(process) if identity is None else identity,
    )
    folder = Path(shards_dir or path_out.with_name(f"{path_out.stem}.shards")).absolute()
    run = open_run(
        folder,
        settings,
        frames_per_range=frames_per_range,
        n_workers=int(getattr(executor, "n_workers", 1)),
        resume=resume,
    )
    job = Job(run, executor, progress)
    shards = job.compute(process, memory_budget)
    features = common_features(shards, virtual=virtual)
    pieces = [] if virtual else job.align(shards, features)
    kept = virtual or keep_shards
    parts = (*shards, *(piece for piece in pieces if piece not in shards))
    summary = ClusterSummary(
        path=path_out,
        run=run.identifier,
        n_frames=n_frames,
        n_events=sum(shard.n_events for shard in shards),
        n_features=len(features),
        n_ranges=len(shards),
        n_resumed=sum(shard.is_old for shard in shards),
        n_pieces=len(pieces),
        n_moved=0,
        n_recoded=0,
        hosts=tuple(sorted({part.host for part in parts})),
        has_locks=all(part.has_locks for part in parts),
        shards_dir=folder if kept else None,
        computing_s=job.seconds["computing"],
        aligning_s=job.seconds.get("aligning", 0.0),
        joining_s=0.0,
        busy_s=sum(part.seconds for part in parts if not part.is_old),
    )
    texts = {name: list(lines) for name, lines in (logs or {}).items()}
    texts[CLUSTER_LOG] = _log(run, summary)
    started = time.perf_counter()
    n_moved = n_recoded = 0
    if virtual:
        _refer(path_out, shards, metadata, texts, overwrite=overwrite, threads=threads)
    else:
        expected = sum(piece.size_bytes for piece in pieces)
        with (
            whole_file(path_out, overwrite=overwrite, expected_bytes=expected) as temporary,
            HDF5Writer(
                temporary,
                mode="x",
                compression=how,
                threads=threads,
                event_count=True,
                scalar_attributes=scalar_attributes,
            ) as writer,
        ):
            n_moved, n_recoded = job.join(writer, pieces, features)
            _complete(writer, metadata, texts, finish)
    seconds = time.perf_counter() - started
    run.forget_files(keep_shards=kept)
    return replace(summary, n_moved=n_moved, n_recoded=n_recoded, joining_s=seconds)


def _compression(compression: Compression | str) -> Compression:
    how = Compression.preset(compression) if isinstance(compression, str) else compression
    # a level that falls under load is for live streams; nothing is lost here by a worker's pace
    return replace(how, lowest_level=None)


def _refuse_arguments(
    path_out: Path,
    n_frames: int,
    frames_per_range: int | None,
    memory_budget: int,
    finish: Any,
    *,
    virtual: bool,
    overwrite: bool,
) -> None:
    """Refuse what does not fit before any work is done."""
    for name, value, least in (
        ("n_frames", n_frames, 0),
        ("frames_per_range", 1 if frames_per_range is None else frames_per_range, 1),
        ("memory_budget", memory_budget, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{name}: expected an integer from {least}, got {value!r}")
    if virtual and finish is not None:
        raise UsageError(
            "finish: expected None with virtual=True, got a function; open the recording "
            "afterwards with HDF5Writer"
        )
    if path_out.exists() and not overwrite:
        raise StorageError(
            errno.EEXIST,
            "the recording exists already; pass overwrite=True or choose another name",
            str(path_out),
        )
    if not path_out.parent.is_dir():
        raise StorageError(
            errno.ENOENT, "the recording's folder does not exist; create it first", str(path_out)
        )
    if not os.access(path_out.parent, os.W_OK | os.X_OK):
        raise StorageError(
            errno.EACCES, "expected a folder that can be written for the recording", str(path_out)
        )


def _log(run: Run, summary: ClusterSummary) -> list[str]:
    """What the log of the recording says."""
    content = {
        "software": f"dcwrite {__version__}",
        "run": run.identifier,
        "settings": asdict(run.settings),
        "events": summary.n_events,
        "ranges": summary.n_ranges,
        "ranges of an earlier attempt": summary.n_resumed,
        "pieces": summary.n_pieces,
        "machines": list(summary.hosts),
        "HDF5 file locks": "used" if summary.has_locks else "not there, so not used",
        "seconds of the workers": round(summary.busy_s, 3),
    }
    return json.dumps(content, indent=2).split("\n")


def _complete(
    writer: HDF5Writer,
    metadata: Mapping[str, Any],
    logs: Mapping[str, Sequence[str]],
    finish: Callable[[HDF5Writer], None] | None,
) -> None:
    """What a recording has besides its events."""
    if not writer.lengths():
        writer.store_metadata({"experiment:event count": 0})
    writer.store_metadata(metadata)
    for name, lines in logs.items():
        writer.store_log(name, lines)
    if finish is not None:
        finish(writer)


def _refer(
    path_out: Path,
    shards: Sequence[Part],
    metadata: Mapping[str, Any],
    logs: Mapping[str, Sequence[str]],
    *,
    overwrite: bool,
    threads: int | None,
) -> None:
    """A recording that refers to its shards; those without events are left out."""
    full = [shard for shard in shards if shard.n_events]
    for shard in full:
        require_visible(shard.path, shard.size_bytes)
    if full:
        virtual_recording(
            path_out,
            [shard.path for shard in full],
            metadata=metadata,
            logs=logs,
            overwrite=overwrite,
            threads=threads,
        )
        return
    with (
        whole_file(path_out, overwrite=overwrite) as temporary,
        HDF5Writer(temporary, mode="x") as writer,
    ):
        _complete(writer, metadata, logs, None)
