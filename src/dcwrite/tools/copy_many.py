"""Copies of many recordings into one folder, side by side.

Alone here: which output an input has. Invariant: an error of one input is its outcome, and the
others go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from .batch import Batch, Executor, Finished, outputs_in, run_batch
from .folders import output_folder
from .progress import Report
from .subset import copy_recording

__all__ = ["copy_many", "copy_to"]


def copy_many(
    paths: Iterable[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str],
    *,
    jobs: int = 1,
    threads: int | None = None,
    progress: Report | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Batch:
    """Copy several recordings, or some of their features and events.

    Parameters
    ----------
    paths
        The recordings; no two of one name.
    out_dir
        Folder of the outputs, which get the names of the inputs; made if it is not there.
    jobs, threads, executor
        As for `run_batch`.
    progress
        Takes records of progress; the stage is "copying" [bytes of the inputs].
    **options
        As for `copy_recording`.

    Raises
    ------
    UsageError
        Two inputs have the same name; nothing was done.
    """
    inputs = [Path(path) for path in paths]
    outputs_in(out_dir, inputs)
    with output_folder(Path(out_dir)):
        return run_batch(
            partial(_copy_into, out_dir=Path(out_dir), options=options),
            inputs,
            jobs=jobs,
            threads=threads,
            stage="copying",
            progress=progress,
            executor=executor,
        )


def copy_to(
    path: Path,
    *,
    path_out: Path,
    options: Mapping[str, Any],
    threads: int | None,
    progress: Report | None,
) -> Finished:
    """One recording to one output: a task of `run_batch`."""
    summary = copy_recording(path, path_out, **options, threads=threads, progress=progress)
    return Finished(summary, (path_out,))


def _copy_into(
    path: Path,
    *,
    out_dir: Path,
    options: Mapping[str, Any],
    threads: int | None,
    progress: Report | None,
) -> Finished:
    path_out = out_dir / path.name
    return copy_to(path, path_out=path_out, options=options, threads=threads, progress=progress)
