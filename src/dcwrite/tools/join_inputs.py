"""The inputs of a join: what each of them holds, and where it is.

Alone here: what is looked at before anything is written. Invariant: an input is opened, looked at
and closed again; what is left is plain data, so that any number of inputs can be joined.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ..format.basin import Basin
from ..format.features import is_basinmap
from ..store.hdf5 import datasets_of
from ..store.objects import unknown_names
from ..store.recording import BasinStatus, Contours, Feature, Recording
from .origins import open_input

__all__ = ["Column", "JoinInput", "LinkedBasin", "Span", "Way", "look_at", "start_of"]

#: How an input has a feature: in its events, in its internal basins (as they are, or as chopped
#: images), or in a file that it refers to.
Way = Literal["own", "internal", "chopped", "file"]

#: Counters whose values depend on the other inputs.
COUNTERS: Final = ("time", "frame", "index_online")


@dataclass(frozen=True, slots=True)
class Column:
    """A feature of one input; each trace is one.

    Attributes
    ----------
    way
        How the input has it.
    item_shape, dtype
        Of one event; None for contours and chopped images.
    basin
        Name of the dataset that describes the basin; None: the data are in the events.
    path, dataset
        File and dataset that hold the data; None for chopped images.
    first_row
        Row of the first event, where the others follow in order; None where they do not.
    problem
        Why it cannot be joined.
    """

    way: Way
    item_shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None
    basin: str | None = None
    path: Path | None = None
    dataset: str | None = None
    first_row: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LinkedBasin:
    """A basin of an input.

    Attributes
    ----------
    key
        Name of the dataset that describes it.
    basin
        The description; None if it could not be understood.
    target
        Equal for basins of different inputs that provide the same features of the same data.
    reachable, reason
        Whether its data can be read here, and why not.
    features
        Features that it says it provides; where it says nothing: those that were found.
    """

    key: str
    basin: Basin | None
    target: tuple[Any, ...]
    reachable: bool
    reason: str | None
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """First and largest value of a counter."""

    first: float
    largest: float


@dataclass(frozen=True, slots=True)
class JoinInput:
    """One input of a join.

    Attributes
    ----------
    path, n_events, size_bytes
        The file.
    metadata, identifier
        Its root attributes and measurement identifier.
    start
        Date and time of the measurement; None where they are missing.
    columns
        Its features, those of basins included.
    basins
        Its basins, in the order in which they are searched.
    spans
        Of the counters "time", "frame" and "index_online", where it has them.
    notes
        What cannot be kept.
    """

    path: Path
    n_events: int
    size_bytes: int
    metadata: Mapping[str, Any]
    identifier: str | None
    start: datetime | None
    columns: Mapping[str, Column] = field(default_factory=dict)
    basins: tuple[LinkedBasin, ...] = ()
    spans: Mapping[str, Span] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    @property
    def order(self) -> tuple[Any, ...]:
        """Key to sort by time: start, run index, first time, first frame."""
        run = self.metadata.get("experiment:run index", 0)
        firsts = [
            self.spans[name].first if name in self.spans else 0.0 for name in ("time", "frame")
        ]
        start = (0, 0.0) if self.start is None else (self.start.toordinal(), _seconds(self.start))
        return (*start, run if isinstance(run, (int, float)) else 0, *firsts)


def _seconds(start: datetime) -> float:
    """Seconds since midnight."""
    midnight = datetime(start.year, start.month, start.day)  # noqa: DTZ001 - of the same place
    return (start - midnight).total_seconds()


def start_of(metadata: Mapping[str, Any]) -> datetime | None:
    """When a measurement began; None where date or time are missing or not understood.

    Parameters
    ----------
    metadata
        "experiment:date" as YYYY-MM-DD, "experiment:time" as HH:MM:SS with or without fractions.
    """
    date, time = (metadata.get(f"experiment:{key}") for key in ("date", "time"))
    if not isinstance(date, str) or not isinstance(time, str):
        return None
    seconds, _, fraction = time.partition(".")
    try:
        start = datetime.strptime(f"{date} {seconds}", "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - local
        return start + timedelta(seconds=float(f"0.{fraction}") if fraction else 0.0)
    except ValueError:
        return None


def look_at(
    path: str | os.PathLike[str], basin_roots: Iterable[str | os.PathLike[str]] = ()
) -> JoinInput:
    """Open an input, see what it holds, and close it.

    Parameters
    ----------
    path
        The recording.
    basin_roots
        Folders below which file basins may be opened, besides the recording's own folder.

    Raises
    ------
    StorageError, DamagedFileError
        It cannot be read, or is not finished.
    RecordingError
        Its features differ in length.
    """
    path = Path(path)
    with open_input(path, tuple(basin_roots)) as recording:
        recording.check_consistent()
        metadata = recording.metadata
        columns = dict(_columns(recording))
        return JoinInput(
            path=path,
            n_events=len(recording),
            size_bytes=path.stat().st_size,
            metadata=metadata,
            identifier=recording.identifier,
            start=start_of(metadata),
            columns=columns,
            basins=tuple(_linked(recording, status) for status in recording.basins),
            spans=dict(_spans(recording, columns)),
            notes=(*_stray_mappings(recording), *_unknown(recording)),
        )


def _columns(recording: Recording) -> Iterable[tuple[str, Column]]:
    own = set(recording.own_features)
    datasets = datasets_of(recording.h5["events"])
    providers: dict[str, BasinStatus] = {}
    for status in recording.basins:
        for feat in status.features:
            providers.setdefault(feat, status)
    chopped = _chopped(recording)
    for name, dset in datasets.items():
        if dset.shape and not is_basinmap(name):
            yield name, _dataset_column(name, dset, None, "own", None)
    for feat in sorted(own | set(providers) | set(chopped)):
        if is_basinmap(feat) or feat in datasets or (feat == "trace" and feat in own):
            continue
        if feat in chopped and feat not in own:
            yield feat, Column("chopped", basin=chopped[feat])
            continue
        way, basin = _provided(None if feat in own else providers[feat])
        item = recording[feat]
        if isinstance(item, Feature):
            dset, rows = item.source
            yield feat, _dataset_column(feat, dset, rows, way, basin)
        elif isinstance(item, Contours):
            yield feat, Column(way, basin=basin, problem=_contour_problem(recording, item))
        elif feat == "trace":
            for name, trace in item.items():
                dset, rows = trace.source
                yield f"trace/{name}", _dataset_column(name, dset, rows, way, basin)
        else:
            yield feat, Column(way, problem="is a group, of which nothing is known")


def _chopped(recording: Recording) -> dict[str, str]:
    """Features of which only chopped images are stored, and the basin that says so."""
    chopped: dict[str, str] = {}
    for status in recording.basins:
        if status.basin is not None and status.basin.format == "h5datasetchop":
            group = recording.h5.get(status.basin.locations[0], {})
            for feat in status.basin.features or ():
                if feat in group:
                    chopped.setdefault(feat, status.key)
    return chopped


def _provided(status: BasinStatus | None) -> tuple[Way, str | None]:
    if status is None or status.basin is None:
        return "own", None
    return ("internal" if status.basin.type == "internal" else "file"), status.key


def _dataset_column(
    name: str, dset: Any, rows: npt.NDArray[Any] | None, way: Way, basin: str | None
) -> Column:
    return Column(
        way=way,
        item_shape=dset.shape[1:],
        # as it is stored: masks are read as bool
        dtype=np.dtype(np.uint8) if name == "mask" else dset.dtype,
        basin=basin,
        path=Path(os.fsdecode(dset.file.filename)),
        dataset=dset.name,
        first_row=None if dset.is_virtual else _first_row(rows),
        problem=None if dset.dtype.kind in "biuf" else f"has the dtype {dset.dtype}",
    )


def _first_row(rows: npt.NDArray[Any] | None) -> int | None:
    if rows is None or not len(rows):
        return 0
    first = int(rows[0])
    in_order = int(rows[-1]) - first == len(rows) - 1 and bool(np.all(np.diff(rows) == 1))
    return first if in_order else None


def _contour_problem(recording: Recording, contours: Contours) -> str | None:
    expected = len(recording)
    return None if len(contours) == expected else f"has {len(contours)} of {expected} events"


def _linked(recording: Recording, status: BasinStatus) -> LinkedBasin:
    basin = status.basin
    if basin is None:
        target: tuple[Any, ...] = ("not understood", recording.path, status.key)
        return LinkedBasin(status.key, None, target, False, status.reason, ())
    where: tuple[str, ...] = basin.locations
    if basin.type == "file":
        folder = recording.path.resolve().parent
        found = status.path is not None
        where = (
            (str(status.path),)
            if found
            else tuple(str((folder / location).resolve()) for location in where)
        )
    features = None if basin.features is None else tuple(sorted(basin.features))
    target = (basin.type, basin.format, where, features, basin.identifier)
    said = set(status.features if basin.features is None else basin.features)
    if basin.features is None and status.recording is not None:
        said.update(_chopped(status.recording))
    return LinkedBasin(
        status.key, basin, target, status.reachable, status.reason, tuple(sorted(said))
    )


def _spans(recording: Recording, columns: Mapping[str, Column]) -> Iterable[tuple[str, Span]]:
    for name in COUNTERS:
        column = columns.get(name)
        if column is None or column.item_shape != () or column.problem:
            continue
        values = recording[name][:]
        valid = values[np.isfinite(values)]
        if len(valid):
            yield name, Span(valid[0].item(), valid.max().item())


def _stray_mappings(recording: Recording) -> Iterable[str]:
    used = {status.basin.mapping for status in recording.basins if status.basin is not None}
    for name in recording.own_features:
        if is_basinmap(name) and name not in used:
            yield f"the mapping '{name}' belongs to no basin, and is left out"


def _unknown(recording: Recording) -> Iterable[str]:
    names = sorted(unknown_names(recording.h5))
    if names:
        be = "is" if len(names) == 1 else "are"
        yield (
            f"{', '.join(map(repr, names))} beside the events {be} not known, and {be} left out "
            f"(`dcwrite copy` keeps such groups)"
        )
