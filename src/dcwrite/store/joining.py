"""What a joined recording takes from each input beside the events of its datasets.

Alone here: names of logs and tables by input, and how chopped images are put behind each other.
Invariant: inputs are only read.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Final

import h5py
import numpy as np

from ..errors import BasinError, DamagedFileError
from ..format.basin import BASIN_GROUP
from ..format.text import storable
from .copying import copy_text_or_table
from .hdf5 import content_errors, own_item, read_whole, storage_errors
from .objects import copy_object

__all__ = ["append_chopped", "copy_plain_attributes", "copy_root_attributes", "copy_texts"]

#: Attributes that a writer computes.
_SUMMARY: Final = frozenset({"min", "max", "mean"})

#: Columns of the index of chopped images (dclab 0.73, format "h5datasetchop"): number of the
#: dataset, row in it, offsets in y and x, and the next event of the same frame.
_DATASET, _NEXT = 0, 4
_COLUMNS: Final = 5


def copy_root_attributes(
    h5_src: h5py.File, h5_dst: h5py.File, names: list[str] | None = None
) -> None:
    """Copy root attributes as they are stored.

    Parameters
    ----------
    h5_src, h5_dst
        Open files.
    names
        Which; None: all. Those of the output are replaced.
    """
    with (
        content_errors(h5_src.filename, "reading the attributes"),
        storage_errors(h5_dst.filename, "setting attributes"),
    ):
        for key in h5_src.attrs if names is None else names:
            if key in h5_src.attrs:
                with suppress(TypeError):  # references into the other file mean nothing here
                    h5_dst.attrs[key] = storable(h5_src.attrs[key])


def copy_plain_attributes(
    source: h5py.Dataset | h5py.Group, target: h5py.Dataset | h5py.Group
) -> None:
    """Copy the attributes of a feature, but for the summary, which the writer makes anew.

    Parameters
    ----------
    source, target
        The feature in both files.
    """
    for key in source.attrs:
        if key not in _SUMMARY:
            with suppress(TypeError):  # references into the other file mean nothing here
                target.attrs[key] = storable(source.attrs[key])


def copy_texts(h5_src: h5py.File, h5_dst: h5py.File, prefix: str) -> int:
    """Copy logs and tables under names with a prefix.

    Parameters
    ----------
    h5_src, h5_dst
        Open files.
    prefix
        What stands before each name.

    Returns
    -------
    int
        Number of logs and tables.
    """
    count = 0
    with (
        content_errors(h5_src.filename, "copying logs and tables"),
        storage_errors(h5_dst.filename, "copying logs and tables"),
    ):
        for topic in ("logs", "tables"):
            group = own_item(h5_src, topic)
            for name in group if isinstance(group, h5py.Group) else ():
                target = h5_dst.require_group(topic)
                copy_text_or_table(group, target, name, keep_empty=True, new_name=prefix + name)
                count += 1
    return count


def append_chopped(h5_src: h5py.File, h5_dst: h5py.File, feat: str, n_before: int) -> None:
    """Put the chopped images of a feature behind those of the inputs before.

    The images are copied as they are stored; what counts datasets and events is shifted.

    Parameters
    ----------
    h5_src, h5_dst
        Open files.
    feat
        The feature, a group of "basin_events".
    n_before
        Number of events of the inputs before.

    Raises
    ------
    DamagedFileError
        The input's images are not as the format has them.
    BasinError
        They are stored in another way than those of the inputs before.
    """
    where = f"'{os.fsdecode(h5_src.filename)}': '{BASIN_GROUP}/{feat}'"
    group = own_item(h5_src, BASIN_GROUP)
    source = own_item(group, feat) if isinstance(group, h5py.Group) else None
    table = own_item(source, "index") if isinstance(source, h5py.Group) else None
    if not isinstance(source, h5py.Group) or not isinstance(table, h5py.Dataset):
        raise DamagedFileError(f"{where}: expected a group with an index, got none")
    index = read_whole(table)
    if index.ndim != 2 or index.shape[1] != _COLUMNS or index.dtype.kind not in "iu":
        raise DamagedFileError(
            f"{where}: expected an index of {_COLUMNS} columns of integers, got shape "
            f"{index.shape} and dtype {index.dtype}"
        )
    target = h5_dst.require_group(f"{BASIN_GROUP}/{feat}")
    attributes: dict[str, Any] = dict(source.attrs)
    if not len(target):
        for key, value in attributes.items():
            target.attrs[key] = value
    elif {key: str(value) for key, value in attributes.items()} != {
        key: str(value) for key, value in target.attrs.items()
    }:
        raise BasinError(
            f"{where}: expected images that were chopped as those of the first input, with the "
            f"attributes {dict(target.attrs)}, got {attributes}; make whole images of them first"
        )
    names = sorted((name for name in source if name != "index"), key=_number)
    n_datasets = sum(name != "index" for name in target)
    for number, name in enumerate(names):
        if _number(name) != number:
            raise DamagedFileError(f"{where}: expected datasets 0, 1, 2, ..., got {names[:10]}")
        copy_object(source, name, target, str(n_datasets + number))
    index = index.astype(np.int64)
    index[:, _DATASET] += n_datasets
    index[:, _NEXT] += n_before
    with storage_errors(h5_dst.filename, f"writing '{BASIN_GROUP}/{feat}/index'"):
        if "index" not in target:
            target.create_dataset(
                "index", data=index, maxshape=(None, _COLUMNS), chunks=True, fletcher32=True
            )
            return
        dset = target["index"]
        start = dset.shape[0]
        dset.resize(start + len(index), axis=0)
        dset[start:] = index
        dset.flush()


def _number(name: str) -> int:
    return int(name) if name.isdecimal() else -1
