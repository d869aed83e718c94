"""Recovery without a journal: all chunks of a file are tried.

Alone here: reading a file that HDF5 may hang or crash on. Invariant: HDF5 opens it in
another process only.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import DamagedFileError, DCWriteError, StorageError
from ..format.features import GROUP_FEATURES
from .basins import copy_basins
from .contained import run_contained
from .copying import copy_features, copy_metadata
from .encoder import EncoderPool
from .hdf5 import chunks_of, datasets_of, own_item
from .recover_undo import events_of_before, missing_of_before, open_undone
from .recovery_report import RecoveryReport, copy_basin_groups, note_rows, whole_rows
from .unclean import UncleanFile
from .undo_file import UndoneFile

__all__ = ["scan", "scan_in_child"]

AnyArray = npt.NDArray[Any]

#: Errors of the disk that is written, not of the file that is read.
_DISK_CODES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class _BeforeIsLostError(DamagedFileError):
    """What a file had before it was added to is not all there."""


def scan_in_child(
    path_in: Path,
    temporary: Path,
    report: RecoveryReport,
    *,
    undo: Path | None = None,
    cut_damaged: bool,
    timeout_s: float,
) -> None:
    """Let another process read the file: HDF5 may hang or crash on it.

    Parameters
    ----------
    path_in, temporary
        File to read, file to write.
    report
        What was found is noted there.
    undo
        The file's undo file: if not all that was in the file before can be read, it is taken as
        it was before.
    cut_damaged
        Whether to leave damaged events out; else the output ends before the first.
    timeout_s
        A call into HDF5 that takes longer does not come back.

    Raises
    ------
    DamagedFileError
        HDF5 crashes on the file, hangs, or finds no events.
    StorageError
        The disk of the output refuses.
    WriterDiedError
        The process cannot start.
    """
    try:
        try:
            found: RecoveryReport = run_contained(
                scan, path_in, temporary, undo,
                path=path_in, hang_s=timeout_s, cut_damaged=cut_damaged,
            )  # fmt: skip
        except DamagedFileError as exc:
            if undo is None:
                raise
            temporary.unlink(missing_ok=True)
            found = run_contained(
                scan_undone, path_in, temporary, undo,
                path=path_in, hang_s=timeout_s, cut_damaged=cut_damaged,
            )  # fmt: skip
            found.damaged.append(
                f"what was added since the file was opened is not whole, and was left out: {exc}"
            )
            report.way = "undo"
    except StorageError as exc:
        raise StorageError(exc.errno, exc.strerror or "", str(report.path_out)) from exc
    report.n_events, report.n_announced = found.n_events, found.n_announced
    report.damaged, report.notes = found.damaged, found.notes


def scan(
    path_in: Path, temporary: Path, undo: Path | None = None, *, cut_damaged: bool
) -> RecoveryReport:
    """Copy what can be read; in a process that may crash and hang.

    Raises
    ------
    DamagedFileError
        There are no events that can be read, or what was there before is not all there.
    StorageError
        The disk of the output refuses.
    """
    report = RecoveryReport(path_in, temporary, "scan")
    with _scan_errors(path_in, temporary), _open_any(path_in, report) as h5:
        if undo is not None and (missing := missing_of_before(h5, path_in, undo)):
            raise _BeforeIsLostError(f"'{path_in}': {'; '.join(missing)}")
        size = path_in.stat().st_size
        _copy_whole_events(h5, temporary, report, cut_damaged, file_bytes=size)
        if undo is not None and report.n_events < (wanted := events_of_before(path_in, undo)):
            raise _BeforeIsLostError(
                f"'{path_in}': expected the {wanted} events that were there before, got "
                f"{report.n_events} that are whole in all features ({'; '.join(report.damaged)})"
            )
    return report


def scan_undone(
    path_in: Path, temporary: Path, undo: Path, *, cut_damaged: bool
) -> RecoveryReport:
    """Copy the file as it was before it was added to; in a process that may crash and hang.

    Raises
    ------
    DamagedFileError, StorageError
        As for `scan`.
    """
    report = RecoveryReport(path_in, temporary, "undo")
    with _scan_errors(path_in, temporary), open_undone(path_in, undo) as h5:
        with UndoneFile(path_in, undo) as file:
            size = file.seek(0, os.SEEK_END)  # what is there now may be shorter
        _copy_whole_events(h5, temporary, report, cut_damaged, file_bytes=size)
    return report


@contextmanager
def _scan_errors(path_in: Path, temporary: Path) -> Iterator[None]:
    """Whatever a torn file leads to is one of our errors."""
    try:
        yield
    except _BeforeIsLostError:
        raise
    except (
        ArithmeticError, AttributeError, DCWriteError, LookupError, MemoryError, OSError,
        RuntimeError, TypeError, ValueError,
    ) as exc:  # fmt: skip
        if isinstance(exc, OSError) and exc.errno in _DISK_CODES:
            raise StorageError(
                exc.errno, f"writing the recovered events failed: {exc.strerror}", str(temporary)
            ) from exc
        raise DamagedFileError(
            f"'{path_in}': nothing could be rescued ({type(exc).__name__}: {str(exc)[:300]}); "
            f"look for another copy of it"
        ) from exc


def _open_any(path: Path, report: RecoveryReport) -> h5py.File:
    """Open a file also where HDF5 refuses, because its writer did not close it."""
    try:
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as exc:
        report.notes.append(f"HDF5 cannot open the file as it is: {exc}"[:300])
    return h5py.File(UncleanFile(path), "r")


def _copy_whole_events(
    h5: h5py.File, temporary: Path, report: RecoveryReport, cut_damaged: bool, *, file_bytes: int
) -> None:
    """Write all events whose chunks can be read, and what is beside them.

    `file_bytes` is the size of the file that `h5` shows: chunks beyond it are not there.
    """
    events = own_item(h5, "events")
    if not isinstance(events, h5py.Group):
        raise DamagedFileError("there is no group 'events'")
    datasets = _features_of(events, report)
    lengths = {name: int(dset.shape[0]) for name, dset in datasets.items()}
    contour = own_item(events, "contour")
    if isinstance(contour, h5py.Group):
        lengths["contour"] = len(contour)
    report.n_announced = max(lengths.values())
    for name, length in lengths.items():
        if length < report.n_announced:
            report.damaged.append(f"{name}: only {length} of {report.n_announced} events")
    stored = {name: _StoredRows(dset, file_bytes) for name, dset in datasets.items()}
    # of all features something has to be stored: a length alone can be any number
    limit = min(*lengths.values(), *(rows.end for rows in stored.values()))
    good = np.ones(limit, dtype=bool)
    pool = EncoderPool()
    for name, rows_of in stored.items():
        whole = rows_of.readable(limit, pool)
        report.damaged += [f"{name}: events {a} to {b - 1}" for a, b in _runs(~whole)]
        if rows_of.end < lengths[name]:
            report.damaged.append(f"{name}: events {rows_of.end} to {lengths[name] - 1}")
        good &= whole
    pool.close()
    rows = whole_rows(good, cut_damaged=cut_damaged)
    is_all = len(rows) == report.n_announced
    with h5py.File(temporary, "x") as out:
        names = [name for name in events if name in datasets or name in GROUP_FEATURES]
        copy_features(h5, out, names, mapping=None if is_all else rows)
        # a mapping that lost events is copied as a feature, and its basin as it is
        basins = copy_basins if is_all else copy_basin_groups
        for what, copy in (("metadata", copy_metadata), ("basins", basins)):
            _try_copy(what, copy, h5, out, report)
    if not is_all and cut_damaged:
        note_rows(temporary, rows)
    report.n_events = len(rows)


def _features_of(events: h5py.Group, report: RecoveryReport) -> dict[str, h5py.Dataset]:
    """All features that are datasets with their data in the file."""
    datasets = {}
    for name, dset in datasets_of(events).items():
        if dset.is_virtual or dset.external:
            report.notes.append(f"the data of '{name}' are elsewhere; it was left out")
        elif dset.shape and dset.dtype.kind in "biuf":
            datasets[name] = dset
        else:
            report.notes.append(f"'{name}' is no feature and was left out")
    if not datasets:
        raise DamagedFileError("there is no feature")
    return datasets


def _try_copy(
    what: str,
    copy: Callable[..., Any],
    source: h5py.File,
    target: h5py.File,
    report: RecoveryReport,
) -> None:
    try:
        copy(source, target)
    except (DCWriteError, OSError, RuntimeError, KeyError, ValueError) as exc:
        report.damaged.append(f"{what}: {exc}")


class _StoredRows:
    """Which rows of a dataset are really in the file.

    Parameters
    ----------
    dset
        The dataset.
    file_bytes
        Size of the file.

    Attributes
    ----------
    end
        Row behind the last one that has a place in the file.
    """

    def __init__(self, dset: h5py.Dataset, file_bytes: int) -> None:
        self._dset = dset
        self._firsts: list[int] = []
        length = int(dset.shape[0])
        if dset.chunks is None:
            row_bytes = max(1, math.prod(dset.shape[1:]) * dset.dtype.itemsize)
            # what the file is too short for would read as zeros
            there = max(0, file_bytes - (dset.id.get_offset() or 0))
            self.end = min(length, min(dset.id.get_storage_size(), there) // row_bytes)
            return
        size = dset.chunks[0]
        per_row = math.prod(
            -(-n // c) for n, c in zip(dset.shape[1:], dset.chunks[1:], strict=True)
        )
        counts: dict[int, int] = {}
        with suppress(OSError, RuntimeError, ValueError):
            for info in chunks_of(dset):
                first = info.chunk_offset[0]
                if info.byte_offset + info.size > file_bytes:
                    continue  # it would read as zeros
                counts[first] = counts.get(first, 0) + 1
        # a chunk that was never written reads as zeros
        self._firsts = [first for first, count in counts.items() if count >= per_row]
        self.end = min(length, max(self._firsts, default=-size) + size)

    def readable(self, limit: int, pool: EncoderPool) -> AnyArray:
        """Whether each of the first rows can be read."""
        if self._dset.chunks is None:
            return np.ones(limit, dtype=bool)
        whole = np.zeros(limit, dtype=bool)
        size = self._dset.chunks[0]
        tries = [(first, pool.submit(self._can_be_read, first)) for first in self._firsts]
        for first, future in tries:
            whole[first : first + size] = future.result()
        return whole

    def _can_be_read(self, first: int) -> bool:
        try:
            self._dset[first : first + self._dset.chunks[0]]
        except (OSError, RuntimeError, ValueError):
            return False
        return True


def _runs(wanted: AnyArray) -> list[tuple[int, int]]:
    """First and last + 1 of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]
