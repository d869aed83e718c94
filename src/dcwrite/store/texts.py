"""Logs and tables: whole datasets, replaced only by complete ones.

Alone here: what a table may be made of, and how an old dataset gives way. Invariant: an error
leaves the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import DataError, MetadataError
from .hdf5 import storage_errors
from .open_file import OpenFile, text_filters

__all__ = ["as_table", "store_whole_dataset"]


def store_whole_dataset(
    file: OpenFile,
    group_name: str,
    name: str,
    data: npt.NDArray[Any],
    *,
    override: bool,
    ds_kwds: Mapping[str, Any],
) -> h5py.Dataset:
    """Store a whole dataset; an old one is unlinked only after the new one is complete.

    Parameters
    ----------
    file
        Where to.
    group_name
        "logs" or "tables".
    name, data
        The dataset.
    override
        Whether to replace an old one.
    ds_kwds
        The writer's arguments for datasets.

    Raises
    ------
    MetadataError
        The name is no name, or is taken.
    """
    what = group_name[:-1].capitalize()
    if not isinstance(name, str) or name in {"", ".", ".."} or {"/", "\0"} & set(name):
        raise MetadataError(f"{what} name: expected a text without '/', got {name!r}")
    with storage_errors(file.path, f"writing '{group_name}/{name}'"):
        group = file.h5.require_group(group_name)
        exists = name in group
        if exists and not override:
            raise MetadataError(
                f"{what} '{name}' already exists in '{file.path}'; pass override=True to "
                f"replace it"
            )
        temporary = f".{name}.new" if exists else name
        if exists and temporary in group:
            del group[temporary]  # left behind by a process that was killed
        try:
            dset = group.create_dataset(
                temporary,
                data=data,
                maxshape=None if data.size else (None,),
                **text_filters(ds_kwds),
            )
        except (TypeError, ValueError) as exc:
            raise DataError(
                f"{what} '{name}': expected `ds_kwds` that fit, got {dict(ds_kwds)} ({exc})"
            ) from exc
        file.flush_dataset(dset)
        if exists:
            del group[name]
            group.move(temporary, name)
            dset = group[name]
    return dset


def as_table(
    name: str, columns: Mapping[str, npt.ArrayLike] | npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """A table as a structured array.

    Parameters
    ----------
    name
        For the message.
    columns
        Column names to arrays of shape (rows,), or a structured array of that shape.

    Raises
    ------
    MetadataError
        The columns differ in length, or are not numeric.
    """
    if not isinstance(columns, Mapping):
        table = np.asarray(columns)
        if table.dtype.names is None or table.ndim != 1:
            raise MetadataError(
                f"table '{name}': expected a mapping of columns or a one-dimensional structured "
                f"array, got shape {table.shape} and dtype {table.dtype}"
            )
        return table
    arrays = {str(key): np.asarray(value) for key, value in columns.items()}
    shapes = {key: array.shape for key, array in arrays.items()}
    if not arrays or len(set(shapes.values())) > 1 or any(len(s) != 1 for s in shapes.values()):
        raise MetadataError(
            f"table '{name}': expected at least one column, all of one length, got {shapes}"
        )
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise MetadataError(
                f"table '{name}', column '{key}': expected numbers, got dtype {array.dtype}"
            )
    dtype = np.dtype([(key, array.dtype) for key, array in arrays.items()])
    table = np.zeros(next(iter(shapes.values())), dtype=dtype)
    for key, array in arrays.items():
        table[key] = array
    return table
