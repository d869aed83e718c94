"""What a join will do, decided before anything is written: order, offsets, features, basins.

Alone here: the rules of a join. Invariant: everything here is computed from what was seen of the
inputs, without a file; all mismatches are found, not only the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..errors import MismatchError, UsageError
from .join_features import (
    Way,
    basins_left_out,
    choose_ways,
    common_columns,
    joint_dtypes,
    names_of,
)
from .join_inputs import JoinInput, LinkedBasin
from .join_metadata import metadata_differences

__all__ = ["FeatureChoice", "JoinPlan", "Offsets", "Shift", "Sort", "plan_join"]

Sort = Literal["time", "given"]
Offsets = Literal["start", "continue", "none"]
FeatureChoice = Literal["all", "common"]

#: Features whose values depend on the other inputs.
_TIME, _FRAME, _ONLINE, _INDEX = "time", "frame", "index_online", "index"


@dataclass(frozen=True, slots=True)
class Shift:
    """What is added to the counters of one input.

    Attributes
    ----------
    time_s
        To "time" [s].
    frame, index_online
        To the features of that name.
    """

    time_s: float = 0.0
    frame: int = 0
    index_online: int = 0


@dataclass(frozen=True, slots=True)
class JoinPlan:
    """What a join will do.

    Attributes
    ----------
    inputs
        In the order of the output.
    shifts
        Of each input.
    features
        What becomes of each feature.
    dtypes
        Dtypes of the features that are stored.
    changed
        Features whose values are others than those of the inputs.
    linked
        For each basin that all inputs have: that basin of each input.
    internal
        For each internal basin of the output: its features.
    left_out
        For each input, the basins that the output does not have.
    notes
        What is worth knowing: differences between the inputs.
    omitted
        What the output does not have: features, basins, mappings.
    """

    inputs: tuple[JoinInput, ...]
    shifts: tuple[Shift, ...]
    features: Mapping[str, Way]
    dtypes: Mapping[str, np.dtype[Any]]
    changed: frozenset[str]
    linked: tuple[tuple[LinkedBasin, ...], ...]
    internal: tuple[tuple[str, ...], ...]
    left_out: tuple[tuple[LinkedBasin, ...], ...]
    notes: tuple[str, ...]
    omitted: tuple[str, ...]

    @property
    def n_events(self) -> int:
        """Events of the output."""
        return sum(item.n_events for item in self.inputs)

    def names(self, *ways: Way) -> list[str]:
        """Features of which this becomes."""
        return [name for name, way in self.features.items() if way in ways]


def plan_join(
    inputs: Sequence[JoinInput],
    *,
    sort: Sort = "time",
    offsets: Offsets = "start",
    features: FeatureChoice = "all",
    allow_differences: bool = False,
    drop_basins: bool = False,
    virtual: bool = False,
    renumber: bool = True,
    problems: Iterable[str] = (),
) -> JoinPlan:
    """Decide what a join does, or say everything that is in its way.

    Parameters
    ----------
    inputs
        The inputs, as they were given.
    sort, offsets, features, allow_differences, drop_basins, virtual
        As for `join`.
    renumber
        Whether the feature "index" counts the events of the output.
    problems
        What is known to be wrong already, for instance inputs that could not be opened.

    Raises
    ------
    MismatchError
        With all problems.
    UsageError
        An option has a value that it does not take.
    """
    for name, value, kind in (
        ("sort", sort, Sort), ("offsets", offsets, Offsets), ("features", features, FeatureChoice),
    ):  # fmt: skip
        if value not in get_args(kind):
            raise UsageError(f"{name}: expected one of {', '.join(get_args(kind))}, got {value!r}")
    found = list(problems)
    omitted = [f"'{item.name}': {note}" for item in inputs for note in item.notes]
    notes: list[str] = []
    timeless = [item for item in inputs if item.start is None]
    if timeless and (sort == "time" or offsets == "start"):
        found.append(
            f"{names_of(timeless)}: expected the attributes 'experiment:date' and "
            f"'experiment:time', got none that can be read; pass sort='given' and "
            f"offsets='continue' (--sort given --offsets continue)"
        )
    if sort == "time" and not timeless:
        inputs = sorted(inputs, key=lambda item: item.order)
    found += _duplicates(inputs) if not allow_differences else []
    differing, noted = metadata_differences(inputs)
    if allow_differences:
        noted = [*differing, *noted]
    else:
        remedy = "allow_differences=True (--allow-differences) joins them all the same"
        found += [f"{line}; {remedy}" for line in differing]
    notes += noted
    columns, missing = common_columns(inputs)
    if features == "common":
        omitted += [f"left out: {line}" for line in missing]
    else:
        remedy = "features='common' (--features common) leaves out what not all have alike"
        found += [f"{line}; {remedy}" for line in missing]
    shifts, trouble, more = _shifts(inputs, offsets, set(columns))
    found += trouble if not timeless else []
    notes += more
    dtypes = joint_dtypes(columns)
    changed = _changed(inputs, shifts, dtypes, renumber=renumber)
    chosen = choose_ways(inputs, columns, virtual=virtual, changed=changed)
    notes += chosen.notes
    left_out, lost = basins_left_out(inputs, chosen.linked, chosen.ways)
    if drop_basins:
        omitted += [f"left out: {line}" for line in lost]
    else:
        remedy = (
            "make it reachable (basin_roots, --basin-root); drop_basins=True (--drop-basins) "
            "leaves it out"
        )
        found += [f"{line}; {remedy}" for line in lost]
    if found:
        number = "1 problem" if len(found) == 1 else f"{len(found)} problems"
        raise MismatchError(f"{number} with the inputs; nothing was written", found)
    return JoinPlan(
        inputs=tuple(inputs),
        shifts=tuple(shifts),
        features=chosen.ways,
        dtypes={**dtypes, **changed},
        changed=frozenset(changed),
        linked=chosen.linked,
        internal=chosen.internal,
        left_out=left_out,
        notes=tuple(notes),
        omitted=tuple(omitted),
    )


def _duplicates(inputs: Sequence[JoinInput]) -> list[str]:
    """Inputs of which another one seems to be a copy."""
    by_identifier: dict[str, list[JoinInput]] = {}
    for item in inputs:
        if item.identifier is not None:
            by_identifier.setdefault(item.identifier, []).append(item)
    return [
        f"{names_of(items)}: expected different measurements, got the measurement identifier "
        f"'{identifier}' {len(items)} times; remove the copies, or pass allow_differences=True "
        f"(--allow-differences)"
        for identifier, items in by_identifier.items()
        if len(items) > 1
    ]


# -- offsets ----------------------------------------------------------------------------------


def _shifts(
    inputs: Sequence[JoinInput], offsets: Offsets, features: set[str]
) -> tuple[list[Shift], list[str], list[str]]:
    """What is added to the counters of each input; problems; notes."""
    starts = [item.start for item in inputs]
    known = [start for start in starts if start is not None]
    problems, notes, shifts = [], [], []
    ends = {_TIME: 0.0, _FRAME: -1, _ONLINE: -1}
    for item, start in zip(inputs, starts, strict=True):
        time_s, frame = 0.0, 0
        if offsets == "continue":
            time_s, frame = ends[_TIME], int(ends[_FRAME]) + 1
        elif offsets == "start" and start is not None:
            time_s = (start - min(known)).total_seconds()
            rate = item.metadata.get("imaging:frame rate")
            if isinstance(rate, (int, float)) and rate > 0:
                frame = round(time_s * rate)
            elif time_s and _FRAME in features:
                problems.append(
                    f"'{item.name}': expected the attribute 'imaging:frame rate' for the offset "
                    f"of the feature 'frame', got {rate!r}; pass offsets='continue' (--offsets "
                    f"continue)"
                )
        online = 0
        span = item.spans.get(_ONLINE)
        if span is not None and offsets != "none" and span.first <= ends[_ONLINE]:
            online = int(ends[_ONLINE]) + 1
        shift = Shift(time_s, frame, online)
        if _TIME in item.spans and item.spans[_TIME].first + time_s < ends[_TIME]:
            notes.append(f"'{item.name}' begins before the end of the recording in front of it")
        for name, value in ((_TIME, time_s), (_FRAME, frame), (_ONLINE, online)):
            if name in item.spans:
                ends[name] = max(ends[name], item.spans[name].largest + value)
        shifts.append(shift)
    return shifts, problems, notes


def _changed(
    inputs: Sequence[JoinInput],
    shifts: Sequence[Shift],
    dtypes: Mapping[str, np.dtype[Any]],
    *,
    renumber: bool,
) -> dict[str, np.dtype[Any]]:
    """Features whose values change, with dtypes that hold the new ones (as dclab writes them)."""
    changed: dict[str, np.dtype[Any]] = {}
    if _TIME in dtypes and any(shift.time_s for shift in shifts):
        changed[_TIME] = np.dtype(np.float64)
    if _FRAME in dtypes and any(shift.frame for shift in shifts):
        changed[_FRAME] = np.dtype(np.uint64)
    if _ONLINE in dtypes and any(shift.index_online for shift in shifts):
        largest = max(
            item.spans[_ONLINE].largest + shift.index_online
            for item, shift in zip(inputs, shifts, strict=True)
            if _ONLINE in item.spans
        )
        changed[_ONLINE] = _holding(dtypes[_ONLINE], largest)
    if _INDEX in dtypes and renumber:
        changed[_INDEX] = _holding(dtypes[_INDEX], sum(item.n_events for item in inputs))
    return changed


def _holding(dtype: np.dtype[Any], largest: float) -> np.dtype[Any]:
    """A dtype, or a wider one where it cannot count that far."""
    if dtype.kind == "f":
        exact = largest <= 2 ** (np.finfo(dtype).nmant + 1)
    else:
        exact = largest <= np.iinfo(dtype).max
    return dtype if exact else np.dtype(np.float64 if dtype.kind == "f" else np.uint64)
