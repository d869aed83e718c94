"""Recover: a clean recording from an unfinished or damaged one.

Alone here: which way is gone, and where the output stands. Invariant: the input is only read; the
output appears complete, and holds only events all of whose features are whole.

Two ways. With a journal: its chunks are moved by their offsets, compressed as they are, and HDF5
never opens the unfinished file. Without: HDF5 opens the file, if it can, in a child process with a
time limit, and all chunks are tried. A file that was added to in place has an undo file: if what
was in it before is not all there, the output is the file as it was before.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from .._version import __version__
from ..errors import DamagedFileError, StorageError
from .hdf5 import content_errors
from .recover_scan import scan_in_child
from .recover_stream import recover_stream
from .recovery_report import RecoveryReport
from .stream_file import unfinished_of
from .undo import undo_of
from .undo_file import UndoneFile
from .whole_file import refuse_same_file, whole_file
from .writer import HDF5Writer

__all__ = ["DEFAULT_TIMEOUT_S", "RecoveryReport", "recover"]

#: HDF5 can hang on a torn file: a call that takes longer does not come back.
DEFAULT_TIMEOUT_S: Final = 60.0


def recover(
    path_in: str | os.PathLike[str],
    path_out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    cut_damaged: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> RecoveryReport:
    """Write a clean recording with all whole events of an unfinished or damaged one.

    Parameters
    ----------
    path_in
        NAME.rtdc.part (or its journal, or NAME.rtdc where these are beside it), or any .rtdc file
        that was not closed or is damaged (or its undo file). It is only read.
    path_out
        The recording to write; default: NAME.rtdc, or NAME_recovered.rtdc where that is taken.
        It may be on another disk.
    overwrite
        Whether to replace an existing output.
    cut_damaged
        Whether to go on after a damaged chunk: its events are left out of all features, and the
        table "dcwrite-recover" says which events of the input are left. Default: the output ends
        before the first damaged event.
    timeout_s
        A file without journal: seconds after which a call into HDF5 is given up.

    Returns
    -------
    RecoveryReport

    Raises
    ------
    DamagedFileError
        Nothing can be rescued.
    StorageError
        Input or output cannot be read or written; the output exists already.
    UsageError
        Output and input are the same file.
    """
    path_in = Path(path_in)
    unfinished = unfinished_of(path_in)
    undo = None
    if unfinished is None and (left := undo_of(path_in)) is not None:
        path_in, undo = left
        UndoneFile(path_in, undo).close()  # or says what is wrong with it, and what to do
    elif unfinished is None and path_in.suffix == ".undo" and path_in.is_file():
        raise DamagedFileError(
            f"'{path_in}': expected the recording '{path_in.stem}' beside it, to which it "
            f"belongs, got none; the undo file has only what HDF5 might overwrite: put both into "
            f"one folder"
        )
    if unfinished is None and not path_in.is_file():
        raise StorageError(2, "expected an unfinished recording or a file, got none", str(path_in))
    target = Path(path_out) if path_out is not None else _default_output(path_in)
    refuse_same_file(target, [path_in, *(unfinished or ()), *([] if undo is None else [undo])])
    report = RecoveryReport(path_in, target, "scan" if unfinished is None else "journal")
    size = (path_in if unfinished is None else unfinished[0]).stat().st_size
    with whole_file(target, overwrite=overwrite, expected_bytes=size) as temporary:
        if unfinished is None:
            scan_in_child(
                path_in, temporary, report, undo=undo, cut_damaged=cut_damaged, timeout_s=timeout_s
            )
        else:
            with content_errors(unfinished[1], "recovering from the journal"):
                recover_stream(*unfinished, temporary, report, cut_damaged=cut_damaged)
        _sign(temporary, report)
    return report


def _default_output(path_in: Path) -> Path:
    name = path_in.name.removesuffix(".part").removesuffix(".journal")
    target = path_in.with_name(name)
    return (
        target.with_name(f"{target.stem}_recovered{target.suffix}") if target.exists() else target
    )


def _sign(path: Path, report: RecoveryReport) -> None:
    """Event count and log."""
    with HDF5Writer(path, mode="r+") as writer:
        lines = json.dumps(report.to_dict(), indent=2).split("\n")
        writer.store_log("dcwrite-recover", [f"dcwrite {__version__}", *lines], override=True)
        writer.h5.attrs["experiment:event count"] = report.n_events
