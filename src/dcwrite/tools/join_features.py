"""Which features a joined file has, and how: stored, referred to, or left to a common basin.

Alone here: the rules for features and basins of several inputs. Invariant: what can be read of
every input can be read of the output, or there is a line that says why not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..format.basin import MAX_MAPPINGS
from .join_inputs import Column, JoinInput, LinkedBasin

__all__ = [
    "FeatureWays",
    "Way",
    "basins_left_out",
    "choose_ways",
    "common_columns",
    "joint_dtypes",
    "names_of",
]

#: What becomes of a feature: its events are in the output; they stay internal data of a basin, or
#: chopped images; they stay in a file that all inputs refer to; the output refers to the inputs
#: (to one file by a mapping, to several by a virtual dataset).
Way = Literal["stored", "internal", "chopped", "linked", "mapped", "virtual"]


class FeatureWays(NamedTuple):
    """What becomes of the features.

    Attributes
    ----------
    ways
        By feature.
    linked
        For each basin that all inputs have: that basin of each input.
    internal
        For each internal basin of the output: its features.
    notes
        What is copied although it was to be referred to.
    """

    ways: dict[str, Way]
    linked: tuple[tuple[LinkedBasin, ...], ...]
    internal: tuple[tuple[str, ...], ...]
    notes: list[str]


def names_of(inputs: Iterable[JoinInput]) -> str:
    """Names of inputs, for messages."""
    return ", ".join(f"'{item.name}'" for item in inputs)


def common_columns(
    inputs: Sequence[JoinInput],
) -> tuple[dict[str, list[Column]], list[str]]:
    """Features that all inputs have alike, and a line about each reason why others are not."""
    names = sorted({name for item in inputs for name in item.columns})
    columns: dict[str, list[Column]] = {}
    lacking: dict[tuple[str, ...], list[str]] = {}
    lines = []
    for name in names:
        without = tuple(item.name for item in inputs if name not in item.columns)
        if without:
            lacking.setdefault(without, []).append(name)
            continue
        found = [item.columns[name] for item in inputs]
        trouble = _trouble(name, inputs, found)
        if trouble:
            lines.append(trouble)
        else:
            columns[name] = found
    missing = []
    for without, group in lacking.items():
        which = ", ".join(f"'{name}'" for name in without)
        count = f"{len(group)} features" if len(group) > 1 else "a feature"
        verb = "lack" if len(without) > 1 else "lacks"
        missing.append(f"{which} {verb} {count} that others have: {', '.join(group)}")
    return columns, [*missing, *lines]


def _trouble(name: str, inputs: Sequence[JoinInput], found: Sequence[Column]) -> str | None:
    """Why a feature that all inputs have cannot be joined."""
    for item, column in zip(inputs, found, strict=True):
        if column.problem:
            return f"feature '{name}' of '{item.name}' {column.problem}"
    chopped = [item for item, column in zip(inputs, found, strict=True) if column.way == "chopped"]
    if chopped and len(chopped) < len(inputs):
        return (
            f"feature '{name}' is chopped in {names_of(chopped)} (basin format h5datasetchop), "
            f"and whole in the others"
        )
    shapes = _by_value(inputs, [column.item_shape for column in found])
    if len(shapes) > 1:
        return f"feature '{name}' has different shapes: {_listed(shapes)}"
    dtypes = [column.dtype for column in found if column.dtype is not None]
    if dtypes and _joint_dtype(dtypes) is None:
        shown = _listed(_by_value(inputs, [str(column.dtype) for column in found]))
        return f"feature '{name}' has dtypes that no dtype can hold together: {shown}"
    return None


def _by_value(inputs: Sequence[JoinInput], values: Sequence[Any]) -> dict[Any, list[str]]:
    groups: dict[Any, list[str]] = {}
    for item, value in zip(inputs, values, strict=True):
        groups.setdefault(value, []).append(f"'{item.name}'")
    return groups


def _listed(groups: Mapping[Any, Sequence[str]]) -> str:
    return "; ".join(f"{value} in {', '.join(names)}" for value, names in groups.items())


def _joint_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any] | None:
    """The smallest dtype that holds all values of all; None: there is none."""
    if not dtypes:
        return None
    joint = np.result_type(*dtypes)
    for dtype in dtypes:
        # numpy calls 64-bit integers in 64-bit floats safe, which hold 53 bits
        lossy = dtype.kind in "iu" and joint.kind == "f" and dtype.itemsize >= joint.itemsize
        if lossy or not np.can_cast(dtype, joint, "safe"):
            return None
    return joint


def joint_dtypes(columns: Mapping[str, Sequence[Column]]) -> dict[str, np.dtype[Any]]:
    """For each feature of `common_columns` the smallest dtype that holds all values."""
    found = {
        name: _joint_dtype([column.dtype for column in group if column.dtype is not None])
        for name, group in columns.items()
    }
    return {name: dtype for name, dtype in found.items() if dtype is not None}


def choose_ways(
    inputs: Sequence[JoinInput],
    columns: Mapping[str, Sequence[Column]],
    *,
    virtual: bool,
    changed: Collection[str] = (),
) -> FeatureWays:
    """Decide what becomes of each feature.

    Parameters
    ----------
    inputs
        In the order of the output.
    columns
        From `common_columns`.
    virtual
        Whether to refer to images where that is possible.
    changed
        Features whose values are others than those of the inputs.
    """
    linked = _linked(inputs)
    room = MAX_MAPPINGS - len(linked) - virtual
    ways: dict[str, Way] = {}
    groups: dict[tuple[str | None, ...], list[str]] = {}
    notes = []
    for name, found in columns.items():
        kinds = {column.way for column in found}
        basins = tuple(column.basin for column in found)
        has_room = basins in groups or len(groups) < room
        if name in changed:
            ways[name] = "stored"
        elif kinds == {"chopped"}:
            ways[name] = "chopped"
        elif kinds == {"file"} and _is_linked(linked, basins) and "/" not in name:
            ways[name] = "linked"
        elif kinds == {"internal"} and has_room and _is_plain(name, found[0]):
            groups.setdefault(basins, []).append(name)
            ways[name] = "internal"
        else:
            ways[name] = _virtual_way(name, found) if virtual else "stored"
        is_image = bool(found[0].item_shape) or ways[name] == "chopped"
        if virtual and is_image and ways[name] in {"stored", "chopped"}:
            notes.append(f"feature '{name}' is copied, because it cannot be referred to")
    internal = tuple(tuple(group) for group in groups.values())
    return FeatureWays(ways, linked, internal, notes)


def _is_plain(name: str, column: Column) -> bool:
    """Whether a feature is one dataset: neither a trace nor contours."""
    return column.item_shape is not None and "/" not in name


def _linked(inputs: Sequence[JoinInput]) -> tuple[tuple[LinkedBasin, ...], ...]:
    """Basins outside of the file that all inputs have."""
    if not inputs:
        return ()
    found = []
    for basin in inputs[0].basins:
        if basin.basin is None or basin.basin.type == "internal":
            continue
        same = [
            next((other for other in item.basins if other.target == basin.target), None)
            for item in inputs
        ]
        complete = tuple(other for other in same if other is not None)
        if len(complete) == len(inputs):
            found.append(complete)
    return tuple(found[:MAX_MAPPINGS])


def _is_linked(linked: Iterable[Sequence[LinkedBasin]], keys: Sequence[str | None]) -> bool:
    return any([basin.key for basin in basins] == list(keys) for basins in linked)


def _virtual_way(name: str, found: Sequence[Column]) -> Way:
    """How a file that refers to its inputs has a feature."""
    if found[0].item_shape in {(), None}:
        return "stored"  # scalars and contours are small
    is_plain = all(column.dataset == f"/events/{name}" for column in found)
    # dclab does not read traces through a mapping
    if is_plain and len({column.path for column in found}) == 1 and "/" not in name:
        return "mapped"
    in_order = all(column.first_row is not None for column in found)
    same_dtype = len({column.dtype for column in found}) == 1
    return "virtual" if in_order and same_dtype else "stored"


def basins_left_out(
    inputs: Sequence[JoinInput],
    linked: Iterable[Sequence[LinkedBasin]],
    ways: Mapping[str, Way],
) -> tuple[tuple[tuple[LinkedBasin, ...], ...], list[str]]:
    """Basins that the output does not have, and a line for each that takes data along."""
    there = {name.split("/")[0] for name in ways}
    kept = [{basins[number].key for basins in linked} for number in range(len(inputs))]
    left_out, lost = [], []
    for item, keys in zip(inputs, kept, strict=True):
        others = tuple(
            basin
            for basin in item.basins
            if basin.key not in keys
            and (basin.basin is None or basin.basin.type != "internal" or not basin.reachable)
            and not (basin.basin is not None and basin.basin.format == "h5datasetchop")
        )
        left_out.append(others)
        for basin in others:
            missing = sorted(set(basin.features) - there)
            is_known = bool(basin.features) or basin.reachable
            if is_known and not missing:
                continue
            what = ", ".join(missing) or "features that it does not list"
            label = basin.key if basin.basin is None else basin.basin.name
            why = f" ({basin.reason})" if basin.reason else ""
            lost.append(
                f"'{item.name}': basin '{label}' cannot be joined, for the others do not have "
                f"it, and not all of it can be read here{why}: {what}"
            )
    return tuple(left_out), lost
