"""Pictures of many recordings, one of each.

Alone here: which picture a recording has. Invariant: an error of one input is its outcome, and the
others go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .batch import Batch, Finished, distinct_outputs, run_batch
from .folders import output_folder
from .plot import KINDS, default_picture, plot, require_matplotlib
from .progress import Report

__all__ = ["plot_many"]


def plot_many(
    paths: Iterable[str | os.PathLike[str]],
    out_dir: str | os.PathLike[str] | None = None,
    *,
    kind: str = "png",
    progress: Report | None = None,
    **options: Any,
) -> Batch:
    """Draw several recordings, one after the other; an error of one is its outcome.

    Parameters
    ----------
    paths
        The recordings.
    out_dir
        Folder of the pictures, which are named after the recordings; made if it is not there.
        None: each is beside its recording.
    kind
        "png" or "pdf".
    progress
        Takes records of progress; the stage is "drawing" [bytes of the inputs].
    **options
        As for `plot`.

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    UsageError
        Two pictures would have the same name, or there is no such kind; nothing was done.
    """
    if kind not in KINDS.values():
        raise UsageError(f"kind: expected one of {', '.join(KINDS.values())}, got {kind!r}")
    folder = None if out_dir is None else Path(out_dir)
    inputs = [Path(path) for path in paths]
    distinct_outputs(inputs, [default_picture(path, kind, folder) for path in inputs])
    require_matplotlib()
    with nullcontext() if folder is None else output_folder(folder):
        return run_batch(
            partial(_plot_one, folder=folder, kind=kind, options=options),
            inputs,
            stage="drawing",
            progress=progress,
        )


def _plot_one(
    path: Path,
    *,
    folder: Path | None,
    kind: str,
    options: Mapping[str, Any],
    threads: int | None,
    progress: Report | None,
) -> Finished:
    del threads  # the library that draws has one
    path_out = default_picture(path, kind, folder)
    return Finished(plot(path, path_out, **options, progress=progress), (path_out,))
