"""Copies of datasets and groups as they are stored, without decompressing.

Alone here: where HDF5's own copy cannot be trusted. Invariant: the source is only read, and may be
read on through handles that others hold.
"""

from __future__ import annotations

from contextlib import suppress

import h5py

__all__ = ["copy_object"]


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
        _copy_attributes(item, made)
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
    _copy_attributes(item, target[new_name])


def _copy_attributes(source: h5py.Dataset | h5py.Group, target: h5py.Dataset | h5py.Group) -> None:
    for key in source.attrs:
        with suppress(TypeError):  # references into the other file mean nothing here
            value, dtype = source.attrs[key], source.attrs.get_id(key).dtype
            if isinstance(value, h5py.Empty):
                target.attrs[key] = value
            else:
                target.attrs.create(key, value, dtype=dtype)
