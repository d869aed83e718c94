"""Virtual recordings: images of several files as one dataset that only refers to them.

Alone here: how HDF5 virtual datasets are made, and which of them may be read. Invariant: a virtual
dataset is read only if every file that it refers to is there and holds what is referred to, for
HDF5 itself gives zeros for what is missing, without an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from ..errors import DamagedFileError
from .hdf5 import open_for_reading, own_item

__all__ = ["Piece", "require_sources", "store_virtual_dataset"]

#: A virtual dataset of more pieces than this is not read: HDF5 looks through all for each access.
MAX_PIECES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Piece:
    """Events that follow each other in a dataset of another file.

    Attributes
    ----------
    path, dataset
        The file, and the path of the dataset in it.
    first, n_events
        Row of the first event, and number of events.
    n_rows
        Number of rows of the dataset.
    """

    path: Path
    dataset: str
    first: int
    n_events: int
    n_rows: int


def store_virtual_dataset(
    group: h5py.Group,
    name: str,
    pieces: Sequence[Piece],
    item_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    folder: Path,
    attributes: Mapping[str, Any],
) -> None:
    """Make a dataset that refers to others.

    Parameters
    ----------
    group, name
        Where it is made.
    pieces
        What it refers to, in order.
    item_shape, dtype
        Of one event.
    folder
        Folder in which the file will be. Files in or below it are referred to by relative paths,
        so that the folder can be moved; others by absolute ones.
    attributes
        Attributes of the dataset.
    """
    n_events = sum(piece.n_events for piece in pieces)
    layout = h5py.VirtualLayout((n_events, *item_shape), dtype=dtype)
    start = 0
    for piece in pieces:
        if not piece.n_events:
            continue
        source = h5py.VirtualSource(
            _source_name(piece.path, folder),
            piece.dataset,
            shape=(piece.n_rows, *item_shape),
            dtype=dtype,
        )
        layout[start : start + piece.n_events] = source[piece.first : piece.first + piece.n_events]
        start += piece.n_events
    if start:
        group.create_virtual_dataset(name, layout)
    else:  # nothing to refer to
        no_events, any_number = (0, *item_shape), (None, *item_shape)
        group.create_dataset(name, shape=no_events, maxshape=any_number, dtype=dtype)
    for key, value in attributes.items():
        group[name].attrs[key] = value


def _source_name(path: Path, folder: Path) -> str:
    path, folder = path.resolve(), folder.resolve()
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    return name.replace("%", "%%")  # HDF5 puts numbers in place of "%b"


def require_sources(dset: h5py.Dataset, roots: Iterable[Path]) -> None:
    """Refuse a virtual dataset unless all that it refers to is there.

    Parameters
    ----------
    dset
        The virtual dataset.
    roots
        Folders below which files may be opened.

    Raises
    ------
    DamagedFileError
        A file is missing, is no regular file below the folders, or does not hold the data itself.
    """
    where = f"'{os.fsdecode(dset.file.filename)}': '{dset.name}'"
    folder = Path(os.fsdecode(dset.file.filename)).resolve().parent
    allowed = [Path(root).resolve() for root in roots]
    sources = dset.virtual_sources()
    if len(sources) > MAX_PIECES:
        raise DamagedFileError(
            f"{where}: expected at most {MAX_PIECES} pieces, got {len(sources)}"
        )
    wanted: dict[str, dict[str, int]] = {}
    for source in sources:
        try:
            last = int(source.src_space.get_select_bounds()[1][0])
        except (RuntimeError, ValueError) as exc:
            raise DamagedFileError(f"{where}: a piece has no bounds ({exc})") from exc
        datasets = wanted.setdefault(source.file_name, {})
        datasets[source.dset_name] = max(last, datasets.get(source.dset_name, 0))
    for file_name, datasets in wanted.items():
        plain = file_name.replace("%%", "")
        if "%" in plain or file_name == ".":
            raise DamagedFileError(
                f"{where}: expected files that it refers to, got '{file_name}', which is not "
                f"followed"
            )
        name = file_name.replace("%%", "%")
        path = (folder / name).resolve()
        if not any(path.is_relative_to(root) for root in allowed):
            raise DamagedFileError(
                f"{where} refers to '{name}' outside of the recording's folder; allow its folder "
                f"with basin_roots (--basin-root)"
            )
        if not path.is_file():
            raise DamagedFileError(
                f"{where} refers to the recording '{path}', which is not there; put it back, or "
                f"join the recordings again"
            )
        with open_for_reading(path) as h5:
            for dset_name, last in datasets.items():
                _require_rows(h5, dset_name, last, dset, where)


def _require_rows(h5: h5py.File, name: str, last: int, dset: h5py.Dataset, where: str) -> None:
    """A dataset that holds its data itself, in the right shape."""
    item: Any = h5
    for part in name.strip("/").split("/"):
        item = own_item(item, part) if isinstance(item, h5py.Group) else None
    if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external or not item.shape:
        raise DamagedFileError(
            f"{where}: expected the data '{name}' in '{h5.filename}', got none that can be "
            f"followed; join the recordings again"
        )
    if item.shape[0] <= last or item.shape[1:] != dset.shape[1:] or item.dtype != dset.dtype:
        raise DamagedFileError(
            f"{where}: expected more than {last} events of shape {dset.shape[1:]} and dtype "
            f"{dset.dtype} in '{name}' of '{h5.filename}', got shape {item.shape} and dtype "
            f"{item.dtype}; the file was changed, join the recordings again"
        )
