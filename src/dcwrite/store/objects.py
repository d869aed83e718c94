"""Copies of datasets and groups as they are stored, without decompressing.

Alone here: where HDF5's own copy cannot be trusted, and what no recording has of itself.
Invariant: the source is only read, and may be read on through handles that others hold.
"""

from __future__ import annotations

from typing import Final

import h5py
import numpy as np

from ..format.basin import BASIN_GROUP
from .hdf5 import content_errors, storage_errors

__all__ = [
    "copy_as_stored",
    "copy_attributes_exactly",
    "copy_object",
    "copy_unknown",
    "unknown_names",
]

#: What a recording has in its root.
_KNOWN: Final = frozenset({"events", "logs", "tables", "basins", BASIN_GROUP})


def unknown_names(h5: h5py.File) -> list[str]:
    """What is in the root of a file, and is of no use to recordings."""
    return [name for name in h5 if name not in _KNOWN]


def copy_unknown(h5_src: h5py.File, h5_dst: h5py.File) -> None:
    """Copy what is in the root and not known, as it is stored; what is there already stays.

    Raises
    ------
    DamagedFileError
        The source cannot be read.
    StorageError
        The disk refuses.
    """
    with (
        content_errors(h5_src.filename, "copying what is beside the events"),
        storage_errors(h5_dst.filename, "copying what is beside the events"),
    ):
        for name in unknown_names(h5_src):
            if name not in h5_dst:
                copy_as_stored(h5_src, name, h5_dst)


def copy_as_stored(source: h5py.Group, name: str, target: h5py.Group) -> None:
    """Copy a dataset, a group or a link with its name."""
    link = source.get(name, getlink=True)
    if isinstance(link, h5py.HardLink):
        copy_object(source, name, target, name)
    elif link is not None:
        target[name] = link


def copy_object(source: h5py.Group, name: str, target: h5py.Group, new_name: str) -> None:
    """Copy a dataset or a group as it is stored, with its attributes.

    H5Ocopy of HDF5 2.0.0 writes outside its memory when a compressed chunk of the source is in
    the chunk cache of its open dataset, because somebody has read it, and another chunk follows.
    (Refreshing the dataset empties the cache, but leaves other handles of it unusable.) Datasets
    with several compressed chunks are therefore copied chunk by chunk.

    Parameters
    ----------
    source, name
        Group and name of what is copied.
    target, new_name
        Group and name of the copy.
    """
    item = source[name]
    if not _is_at_risk(item):
        h5py.h5o.copy(source.id, name.encode(), target.id, new_name.encode())
    elif isinstance(item, h5py.Group):
        made = target.create_group(new_name)
        for member in item:
            if isinstance(link := item.get(member, getlink=True), h5py.HardLink):
                copy_object(item, member, made, member)
            else:
                made[member] = link
        copy_attributes_exactly(item, made)
    else:
        _copy_chunks(item, target, new_name)


def _is_at_risk(item: h5py.Dataset | h5py.Group) -> bool:
    """Whether something in it has several compressed chunks."""
    if isinstance(item, h5py.Group):
        return any(
            isinstance(item.get(member, getlink=True), h5py.HardLink) and _is_at_risk(item[member])
            for member in item
        )
    return (
        isinstance(item, h5py.Dataset)
        and item.chunks is not None
        and not item.dtype.hasobject  # the chunks only refer to their texts
        and item.id.get_create_plist().get_nfilters() > 0
        and item.id.get_num_chunks() > 1
    )


def _copy_chunks(item: h5py.Dataset, target: h5py.Group, new_name: str) -> None:
    if item.file.mode != "r":
        item.flush()  # chunks that are only in the cache have no place in the file yet
    made = h5py.h5d.create(
        target.id,
        new_name.encode(),
        item.id.get_type(),
        item.id.get_space(),
        item.id.get_create_plist(),
    )
    offsets: list[tuple[int, ...]] = []
    item.id.chunk_iter(lambda info: offsets.append(info.chunk_offset))
    for offset in offsets:
        filter_mask, data = item.id.read_direct_chunk(offset)
        made.write_direct_chunk(offset, data, filter_mask)
    copy_attributes_exactly(item, target[new_name])


def copy_attributes_exactly(
    source: h5py.Dataset | h5py.Group, target: h5py.Dataset | h5py.Group
) -> None:
    """Copy all attributes with their types; those of the target that have the name are replaced.

    Parameters
    ----------
    source, target
        Objects in different files.
    """
    for number in range(h5py.h5a.get_num_attrs(source.id)):
        attribute = h5py.h5a.open(source.id, index=number)
        kind, space = attribute.get_type(), attribute.get_space()
        if kind.detect_class(h5py.h5t.REFERENCE):
            continue  # references into the other file mean nothing here
        if h5py.h5a.exists(target.id, attribute.name):
            h5py.h5a.delete(target.id, attribute.name)
        made = h5py.h5a.create(target.id, attribute.name, kind, space)
        if space.get_simple_extent_type() != h5py.h5s.NULL:
            value = np.empty(attribute.shape, dtype=attribute.dtype)
            attribute.read(value, mtype=kind)
            made.write(value, mtype=kind)
