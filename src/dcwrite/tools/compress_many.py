"""Compress many recordings into a folder, and go on where an earlier run was stopped.

Alone here: when an output is what a job would make again. Invariant: an output of another input or
with other options is never taken for that, and never replaced unless it is asked for.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..errors import StorageError
from ..format.compression import Compression
from .batch import Batch, Executor, Finished, outputs_in, run_batch
from .compress import (
    COMMAND,
    IfGood,
    compress,
    is_good,
    job_options,
    require_if_good,
    settings_of,
)
from .folders import output_folder
from .job_log import describe_input, is_result_of
from .progress import Report

__all__ = ["compress_into", "compress_many"]


def compress_many(
    paths: Iterable[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    compression: Compression | str = "archive",
    force: bool = False,
    if_good: IfGood = "copy",
    check: bool = False,
    overwrite: bool = False,
    resume: bool = True,
    jobs: int = 1,
    threads: int | None = None,
    progress: Report | None = None,
    executor: Executor | None = None,
) -> Batch:
    """Compress many recordings into a folder; an error of one is its outcome.

    Parameters
    ----------
    paths
        The recordings; no two of one name.
    out_dir
        Folder of the outputs, which get the names of the inputs; it is made if need be.
    compression, force, if_good, check
        As for `compress`.
    overwrite
        Whether to replace outputs that are of other inputs or options.
    resume
        Whether outputs that this job has made before are left alone: those whose log has the same
        options and the same input (name, size, time of modification, checksum of the first 5 MiB).
    jobs
        Recordings at the same time.
    threads
        Threads of all jobs together; default: the usable cores.
    progress
        Takes records of progress; the stage is "compressing" [bytes of the inputs].
    executor
        Runs the tasks elsewhere.

    Raises
    ------
    UsageError
        Two inputs have the same name; nothing was done.
    DataError
        `compression` or `if_good` are not known.
    """
    paths = [Path(path) for path in paths]
    require_if_good(if_good)
    wanted = settings_of(compression)
    out_dir = Path(out_dir)
    outputs_in(out_dir, paths)
    task = partial(
        compress_into,
        out_dir=out_dir,
        compression=wanted,
        force=force,
        if_good=if_good,
        check=check,
        overwrite=overwrite,
        resume=resume,
    )
    with output_folder(out_dir):
        return run_batch(
            task,
            paths,
            jobs=jobs,
            threads=threads,
            stage="compressing",
            progress=progress,
            executor=executor,
        )


def compress_into(
    path: Path,
    *,
    out_dir: Path,
    compression: Compression,
    force: bool,
    if_good: IfGood,
    check: bool,
    overwrite: bool,
    resume: bool,
    threads: int | None,
    progress: Report | None,
) -> Finished:
    """One recording of `compress_many`: its task."""
    path_out = out_dir / path.name
    if resume and path_out.exists() and path.exists():
        is_linked = path_out.samefile(path)
        if (is_linked or _is_copy(path, path_out)) and not force and is_good(path, compression):
            return Finished(None, (path_out,), "linked before" if is_linked else "copied before")
        if is_result_of(path_out, COMMAND, job_options(compression, force=force), [path]):
            return Finished(None, (path_out,), "complete before")
        if not overwrite:
            raise StorageError(
                errno.EEXIST,
                "the output exists already, and is not what this input and these options make; "
                "pass overwrite=True (--overwrite) or choose another folder",
                str(path_out),
            )
    summary = compress(
        path,
        path_out,
        compression=compression,
        force=force,
        if_good=if_good,
        check=check,
        overwrite=overwrite,
        threads=threads,
        progress=progress,
    )
    if summary.action == "compressed":
        return Finished(summary, (path_out,))
    if summary.action == "skipped":
        return Finished(summary, (), "good already")
    return Finished(summary, (path_out,), f"good already, {summary.action}")


def _is_copy(path: Path, path_out: Path) -> bool:
    """Whether a file is what "copy" made of another before."""
    with suppress(OSError):
        ours, theirs = describe_input(path_out), describe_input(path)
        return {**ours, "name": ""} == {**theirs, "name": ""}
    return False
