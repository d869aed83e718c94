"""Description of a recording: what is in it, and how it is stored.

Alone here: sizes and filters by name. Invariant: nothing is decompressed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from .contained import run_contained
from .hdf5 import content_errors, dataset_filters, datasets_of, own_item
from .recording import BasinStatus, Recording

__all__ = ["Description", "FeatureInfo", "describe"]

#: Names of HDF5's own filters and of the registered ones that DC recordings use.
_FILTER_NAMES: Final = {
    1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset",
    32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd",
    32026: "blosc2",
}  # fmt: skip
_LEVEL_FILTERS: Final = {1, 32015}


@dataclass(frozen=True, slots=True)
class FeatureInfo:
    """How one feature is stored.

    Attributes
    ----------
    name, shape, dtype
        Of the data; "contour": shape (events,).
    chunks
        Shape of a chunk; None: contiguous.
    filters
        Names in the order of their application.
    raw_bytes, stored_bytes
        Size in memory, and in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None
    filters: str
    raw_bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float | None:
        """Raw bytes per stored byte; None without data."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else None


@dataclass(frozen=True, slots=True)
class Description:
    """What is in a recording.

    Attributes
    ----------
    path, size_bytes, n_events
        The file.
    features
        Its own features.
    metadata
        Root attributes.
    logs
        Number of lines by name.
    tables
        (rows, columns) by name.
    basins
        Its basins and whether they can be reached.
    """

    path: Path
    size_bytes: int
    n_events: int
    features: list[FeatureInfo]
    metadata: dict[str, Any]
    logs: dict[str, int]
    tables: dict[str, tuple[int, int]]
    basins: list[BasinStatus]

    @property
    def raw_bytes(self) -> int:
        """Size of all features in memory."""
        return sum(feature.raw_bytes for feature in self.features)

    @property
    def stored_bytes(self) -> int:
        """Size of all features in the file."""
        return sum(feature.stored_bytes for feature in self.features)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "path": str(self.path),
            "size_bytes": self.size_bytes,
            "n_events": self.n_events,
            "features": [{**asdict(info), "ratio": info.ratio} for info in self.features],
            "metadata": {key: _plain(value) for key, value in self.metadata.items()},
            "logs": self.logs,
            "tables": {name: list(shape) for name, shape in self.tables.items()},
            "basins": [status.to_dict() for status in self.basins],
        }


def describe(
    path: str | os.PathLike[str],
    *,
    basin_roots: Iterable[str | os.PathLike[str]] = (),
    contained: bool = False,
) -> Description:
    """Describe a recording.

    Parameters
    ----------
    path
        The file.
    basin_roots
        As for `Recording`.
    contained
        Whether to read the file in a process of its own: on files that were made or damaged for
        it, the HDF5 library crashes or hangs.

    Raises
    ------
    StorageError, DamagedFileError
        As for `Recording`; with `contained` also where HDF5 crashes or hangs.
    """
    if contained:
        found: Description = run_contained(
            describe, path, path=path, basin_roots=tuple(basin_roots)
        )
        return found
    with (
        Recording(path, basin_roots=basin_roots) as recording,
        content_errors(recording.path, "describing the file"),
    ):
        return _describe(recording)


def _describe(recording: Recording) -> Description:
    events = recording.h5["events"]
    features = [_feature_info(name, dset) for name, dset in sorted(datasets_of(events).items())]
    contour = own_item(events, "contour")
    if isinstance(contour, h5py.Group):
        features.append(_contour_info(contour))
    return Description(
        path=recording.path,
        size_bytes=recording.path.stat().st_size,
        n_events=len(recording),
        features=sorted(features, key=lambda info: info.name),
        metadata=recording.metadata,
        logs={name: len(lines) for name, lines in recording.logs.items()},
        tables={
            name: (np.atleast_1d(table).shape[0], len(np.asarray(table).dtype.names or ()))
            for name, table in recording.tables.items()
        },
        # without what is open: descriptions leave the process
        basins=[replace(status, recording=None) for status in recording.basins],
    )


def _feature_info(name: str, dset: h5py.Dataset) -> FeatureInfo:
    shape = tuple(dset.shape or ())
    return FeatureInfo(
        name=name,
        shape=shape,
        dtype=str(dset.dtype),
        chunks=dset.chunks,
        filters=_filter_names(dset),
        raw_bytes=math.prod(shape) * dset.dtype.itemsize,
        stored_bytes=dset.id.get_storage_size(),
    )


def _contour_info(group: h5py.Group) -> FeatureInfo:
    raw = stored = 0
    filters, dtype = "", ""
    for name in group:
        item = own_item(group, name)
        if isinstance(item, h5py.Dataset):
            info = _feature_info(name, item)
            raw += info.raw_bytes
            stored += info.stored_bytes
            filters, dtype = info.filters, info.dtype
    return FeatureInfo("contour", (len(group),), dtype, None, filters, raw, stored)


def _filter_names(dset: h5py.Dataset) -> str:
    names = []
    for code, values in dataset_filters(dset):
        name = _FILTER_NAMES.get(code, f"filter {code}")
        names.append(f"{name}-{values[0]}" if code in _LEVEL_FILTERS and values else name)
    return " + ".join(names) or "none"


def _plain(value: Any) -> Any:
    """A metadata value for JSON."""
    return value.tolist() if isinstance(value, np.ndarray) else value
