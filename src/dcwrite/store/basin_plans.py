"""What belongs to a basin of a source, for a copy of it: mapping, internal data, locations.

Alone here: how a basin's mapping is composed with the events that the copy has, and which of its
paths still lead somewhere. Invariant: everything is read and checked, and nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import BasinError
from ..format.basin import BASIN_GROUP, Basin
from ..format.features import as_mapping
from ..format.text import decode_lines
from .hdf5 import read_whole

__all__ = ["BasinCopy", "Part", "plan_copy", "reachable_locations"]


class Part(NamedTuple):
    """Some rows of internal data."""

    dset: h5py.Dataset
    rows: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BasinCopy:
    """A basin as it will be in the output.

    Attributes
    ----------
    basin
        Its description, with the mapping's name in the source.
    indices
        Its mapping, shape (n,); None: the same events.
    arrays
        Its internal data: datasets, groups, or parts of datasets.
    text
        Its description as the source has it; None: it has changed.
    """

    basin: Basin
    indices: npt.NDArray[Any] | None = None
    arrays: Mapping[str, Any] = field(default_factory=dict)
    text: str | None = None


def plan_copy(
    h5_src: h5py.File,
    h5_dst: h5py.File,
    key: str,
    basin: Basin,
    selected: npt.NDArray[Any] | None,
) -> BasinCopy:
    """Read and check what belongs to a basin of the source.

    Parameters
    ----------
    h5_src, h5_dst
        The open files.
    key, basin
        Name of the dataset that describes the basin, and the description.
    selected
        Events of the source that the output has, shape (n,); None: all.

    Raises
    ------
    BasinError
        The basin is not right, or the output has internal data of the same features.
    """
    what = f"basin '{basin.name}' of '{h5_src.filename}'"
    arrays, n_source = _internal_data(h5_src, h5_dst, basin, what)
    indices = None
    if basin.mapping is not None:
        path = f"events/{basin.mapping}"
        if path not in h5_src:
            raise BasinError(f"{what}: expected its mapping '{path}' in the file, got none")
        try:
            indices = as_mapping(read_whole(h5_src[path]), n_source, f"{what}: mapping")
        except ValueError as exc:
            raise BasinError(str(exc)) from exc
    if selected is not None:
        indices, arrays = _select(indices, arrays, selected, what)
    lines = np.atleast_1d(read_whole(h5_src["basins"][key])).tolist()
    text: str | None = "\n".join(decode_lines(lines))
    locations = reachable_locations(basin, Path(h5_src.filename), Path(h5_dst.filename))
    if locations != basin.locations:
        basin, text = replace(basin, locations=locations), None
    return BasinCopy(basin, indices, arrays, text)


def _internal_data(
    h5_src: h5py.File, h5_dst: h5py.File, basin: Basin, what: str
) -> tuple[dict[str, Any], int | None]:
    """What a basin has in the source itself, and the number of events that all of it has."""
    if basin.type != "internal":
        return {}, None
    arrays: dict[str, Any] = {}
    for feat in basin.features or ():
        path = f"{basin.locations[0]}/{feat}"
        if path not in h5_src:
            raise BasinError(f"{what}: expected the data '{path}' in the file, got none")
        arrays[feat] = h5_src[path]
    if not arrays:
        raise BasinError(f"{what}: expected the list of its features, got none")
    existing = h5_dst.get(BASIN_GROUP, {})
    if taken := [feat for feat in arrays if feat in existing]:
        raise BasinError(
            f"{what}: features {taken} are already defined as internal basin in "
            f"'{h5_dst.filename}'"
        )
    if basin.format != "h5dataset":
        return arrays, None
    if basin.mapping is None:
        raise BasinError(f"{what}: expected a mapping for internal data, got none")
    return arrays, min(len(array) for array in arrays.values())


def _select(
    indices: npt.NDArray[Any] | None,
    arrays: Mapping[str, h5py.Dataset],
    selected: npt.NDArray[Any],
    what: str,
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """Mapping and internal data of a basin for some of the events."""
    if indices is None:
        return selected, {}
    if selected.size and int(selected.max()) >= len(indices):
        raise BasinError(
            f"{what}: expected a mapping of more than {selected.max()} events, got {len(indices)}"
        )
    indices = indices[selected]
    used, places = np.unique(indices, return_inverse=True)
    if not arrays or len(used) == min(map(len, arrays.values())):
        return indices, dict(arrays)
    return places, {feat: Part(dset, used) for feat, dset in arrays.items()}


def reachable_locations(basin: Basin, source: Path, target: Path) -> tuple[str, ...]:
    """Paths of a file basin; where the relative ones lead nowhere, others that do.

    Those are absolute, and relative to the target's folder, so that both can be moved together.
    """
    if basin.type != "file" or source.resolve().parent == target.resolve().parent:
        return basin.locations
    locations = list(basin.locations)
    for location in basin.locations:
        path = Path(location)
        from_source = source.resolve().parent / path
        if path.is_absolute() or not from_source.exists():
            continue
        if (target.resolve().parent / path).exists():
            continue
        found = [str(from_source.resolve())]
        with suppress(ValueError):  # another drive
            relative = os.path.relpath(found[0], target.resolve().parent)
            found.append(Path(relative).as_posix())  # dclab looks beside the file for it, too
        locations += [other for other in found if other not in locations]
    return tuple(locations)
