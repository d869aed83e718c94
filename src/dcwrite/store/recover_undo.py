"""What was in a file before it was added to in place: looked for in the file as it is now.

Alone here: when a file that lost its writer has all that it had before. Invariant: both are only
read.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ..format.basin import BASIN_GROUP
from .hdf5 import chunks_of, datasets_of, own_item
from .unclean import UncleanFile
from .undo_file import UndoneFile

__all__ = ["events_of_before", "missing_of_before", "open_undone"]


def open_undone(path: Path, undo: Path) -> h5py.File:
    """Open a file as it was before it was added to.

    Raises
    ------
    DamagedFileError
        The undo file is not whole.
    OSError
        HDF5 cannot open it.
    """
    return h5py.File(UncleanFile(UndoneFile(path, undo)), "r")


def missing_of_before(now: h5py.File, path: Path, undo: Path) -> list[str]:
    """What a file had before and has not now, in words.

    Full chunks of events are never written again, so they are the same if they are where they
    were; the rows after them, and texts, are read.

    Parameters
    ----------
    now
        The file as it is.
    path, undo
        The file, and its undo file.
    """
    with open_undone(path, undo) as before:
        gone = sorted(set(before.attrs) - set(now.attrs))
        problems = [f"the attribute '{name}' is gone" for name in gone]
        problems += _missing_events(now, before)
        for group in ("logs", "tables", "basins", BASIN_GROUP):
            problems += _missing_texts(now, before, group)
    return problems


def events_of_before(path: Path, undo: Path) -> int:
    """Number of events that all features of a file had before it was added to."""
    with open_undone(path, undo) as before:
        events = own_item(before, "events")
        if not isinstance(events, h5py.Group):
            return 0
        lengths = [
            int(dset.shape[0])
            for dset in datasets_of(events).values()
            if dset.shape and dset.dtype.kind in "biuf" and not (dset.is_virtual or dset.external)
        ]
        contours = own_item(events, "contour")
        if isinstance(contours, h5py.Group):
            lengths.append(len(contours))
        return min(lengths, default=0)


def _missing_events(now: h5py.File, before: h5py.File) -> list[str]:
    old, new = own_item(before, "events"), own_item(now, "events")
    if not isinstance(old, h5py.Group):
        return []
    if not isinstance(new, h5py.Group):
        return ["the group 'events' is gone"]
    problems = []
    there = datasets_of(new)
    for name, dset in datasets_of(old).items():
        if name not in there:
            problems.append(f"'{name}' is gone")
        elif not _begins_with(there[name], dset):
            problems.append(f"'{name}' is not what it was")
    contours = own_item(old, "contour")
    if isinstance(contours, h5py.Group) and not _has_all(own_item(new, "contour"), contours):
        problems.append("'contour' is not what it was")
    return problems


def _has_all(now: object, contours: h5py.Group) -> bool:
    """Whether all contours are there that were before."""
    if not isinstance(now, h5py.Group):
        return False
    for name in contours:
        item, before = own_item(now, name), own_item(contours, name)
        if not isinstance(before, h5py.Dataset):
            continue
        if not isinstance(item, h5py.Dataset) or item.shape != before.shape:
            return False
        if item[()].tobytes() != before[()].tobytes():
            return False
    return True


def _begins_with(now: h5py.Dataset, before: h5py.Dataset) -> bool:
    if (now.dtype, now.shape[1:], now.chunks) != (before.dtype, before.shape[1:], before.chunks):
        return False
    n_before = before.shape[0]
    if now.shape[0] < n_before:
        return False
    if before.is_virtual or before.external:
        return True  # the rows are in other files
    if before.chunks is None:
        return bool(now.id.get_offset() == before.id.get_offset())
    n_whole = n_before // before.chunks[0] * before.chunks[0]
    places = [
        {
            info.chunk_offset: (info.byte_offset, info.size, info.filter_mask)
            for info in chunks_of(dset)
            if info.chunk_offset[0] < n_whole
        }
        for dset in (now, before)
    ]
    if places[0] != places[1]:
        return False
    rest, rest_before = now[n_whole:n_before], before[n_whole:n_before]
    return bool(rest.tobytes() == rest_before.tobytes())


def _missing_texts(now: h5py.File, before: h5py.File, name: str) -> list[str]:
    old, new = own_item(before, name), own_item(now, name)
    if not isinstance(old, h5py.Group):
        return []
    if not isinstance(new, h5py.Group):
        return [f"the group '{name}' is gone"]
    problems = []
    for key in old:
        item = own_item(new, key)
        if item is None:
            problems.append(f"'{name}/{key}' is gone")
        elif isinstance(item, h5py.Dataset):
            np.asarray(item[()])  # an error is the caller's
    return problems
