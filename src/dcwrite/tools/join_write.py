"""The joined file is written: input after input, then what belongs to all of it.

Alone here: in what order a planned join is carried out. Invariant: one input is open at a time;
memory does not grow with the recordings, but for one number per event for each mapping.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .._version import __version__
from ..errors import RecordingError
from ..format.basin import BASIN_GROUP, Basin
from ..format.features import cast_lossless
from ..format.identifier import readers_agree
from ..store.basins import describe_basin, get_measurement_identifier
from ..store.hdf5 import File
from ..store.joining import (
    append_chopped,
    copy_plain_attributes,
    copy_root_attributes,
    copy_texts,
)
from ..store.recording import Contours, Feature, Recording
from ..store.virtual import Piece, store_virtual_dataset
from ..store.writer import HDF5Writer
from .join_inputs import JoinInput, LinkedBasin
from .join_metadata import (
    channels_left_out,
    configuration_lines,
    folded_lines,
    joined_metadata,
)
from .join_plan import JoinPlan, Shift
from .origins import locations_of, open_input, refuse_origins
from .progress import Clock

__all__ = ["JoinWriter"]

Mapping1D = npt.NDArray[np.int64]
Paths = Sequence[str | os.PathLike[str]]

#: Values of a scalar feature that are changed at a time.
BLOCK_EVENTS: Final = 1_000_000
#: What a contour counts in the progress.
CONTOUR_BYTES: Final = 500


@dataclass
class _Referred:
    """What a basin of the output refers to, gathered input by input."""

    rows: list[Mapping1D] = field(default_factory=list)
    n_source: int = 0

    def add(self, rows: npt.NDArray[Any] | None, n_events: int) -> None:
        """Rows of the next input; None: all in order."""
        found = np.arange(n_events) if rows is None else rows
        self.rows.append(found.astype(np.int64) + self.n_source)

    def mapping(self) -> Mapping1D:
        """For each event of the output, the row that it refers to."""
        return np.concatenate(self.rows) if self.rows else np.empty(0, np.int64)


class JoinWriter:
    """Writes what a plan says.

    Parameters
    ----------
    plan
        What to do.
    path_out
        Final name of the output.
    basin_roots
        Folders below which basins of the inputs may be opened.
    path_virtual
        Final name of the file with the virtual datasets; None: there is none.
    """

    def __init__(
        self,
        plan: JoinPlan,
        path_out: Path,
        basin_roots: Paths = (),
        path_virtual: Path | None = None,
    ) -> None:
        self.plan = plan
        self.path_out = path_out
        self.path_virtual = path_virtual
        self._roots = tuple(basin_roots)
        self.n_moved = self.n_recoded = 0
        self._done_bytes = 0
        self._linked = [_Referred() for _ in plan.linked]
        self._internal = [_Referred() for _ in plan.internal]
        #: of the features of one file that is referred to; that file, and its identifier
        self._mapped = _Referred()
        self._mapped_to: tuple[Path, str | None] | None = None
        self._pieces: dict[str, list[Piece]] = {name: [] for name in plan.names("virtual")}
        self._virtual_attributes: dict[str, dict[str, Any]] = {}

    def total_bytes(self) -> int:
        """Size in memory of all that is copied."""
        plan = self.plan
        per_event = sum(self._event_bytes(name) for name in plan.names("stored", "internal"))
        return plan.n_events * per_event

    def _event_bytes(self, name: str) -> int:
        column = self.plan.inputs[0].columns[name]
        if column.item_shape is None or column.dtype is None:
            return CONTOUR_BYTES
        return int(np.prod(column.item_shape, dtype=object)) * column.dtype.itemsize

    def _opened(self) -> Iterator[tuple[int, JoinInput, Recording]]:
        for number, item in enumerate(self.plan.inputs):
            with open_input(item.path, self._roots) as recording:
                if len(recording) != item.n_events:
                    raise RecordingError(
                        f"'{item.path}': expected {item.n_events} events, as when it was looked "
                        f"at, got {len(recording)}; it was changed meanwhile, nothing was written"
                    )
                yield number, item, recording

    # -- events -----------------------------------------------------------------------------

    def store_events(self, writer: HDF5Writer, clock: Clock) -> None:
        """Copy the events of all inputs; gather what is referred to."""
        start = 0
        for number, item, recording in self._opened():
            refuse_origins(self.path_out, recording)
            if self.path_virtual is not None:
                refuse_origins(self.path_virtual, recording)
            shift = self.plan.shifts[number]
            for name in self.plan.names("stored"):
                found = _find(recording, name)
                if name in self.plan.changed:
                    self._store_counter(writer, name, found, shift, start)
                else:
                    self._store_rows(writer, name, found, "events", clock)
                self._done_bytes += item.n_events * self._event_bytes(name)
                clock.show(self._done_bytes)
            for group, referred in zip(self.plan.internal, self._internal, strict=True):
                self._store_internal(writer, recording, group, referred, clock)
            for linked, referred in zip(self.plan.linked, self._linked, strict=True):
                referred.add(_mapping_of(recording, linked[number]), item.n_events)
            self._refer(recording, item)
            start += item.n_events

    def _store_rows(
        self,
        writer: HDF5Writer,
        name: str,
        found: Feature | Contours,
        group_name: str,
        clock: Clock,
        rows: Any = None,
    ) -> None:
        """Append a feature of one input as it is."""
        source, inner = found.source
        dtype = self.plan.dtypes.get(name)
        if isinstance(found, Feature) and name != "mask" and dtype not in {None, source.dtype}:
            # a new dataset would get the dtype of this input
            writer.store_feature_chunk(name, np.empty((0, *found.shape[1:]), dtype), group_name)
        done, size = self._done_bytes, self._event_bytes(name)
        counts = writer.store_feature_rows(
            name,
            source,
            inner if rows is None else rows,
            group_name,
            on_rows=lambda n_rows: clock.show(done + n_rows * size),
        )
        if isinstance(found, Feature):
            self.n_moved += counts.n_moved
            self.n_recoded += counts.n_recoded

    def _store_counter(
        self, writer: HDF5Writer, name: str, found: Any, shift: Shift, start: int
    ) -> None:
        """Append a feature whose values depend on the inputs before."""
        dtype = self.plan.dtypes[name]
        writer.store_feature_chunk(name, np.empty(0, dtype))
        for first in range(0, len(found), BLOCK_EVENTS):
            stop = min(first + BLOCK_EVENTS, len(found))
            if name == "index":
                values = np.arange(start + first + 1, start + stop + 1)
            elif name == "time":
                values = found[first:stop].astype(np.float64) + shift.time_s
            else:
                added = shift.frame if name == "frame" else shift.index_online
                values = cast_lossless(found[first:stop], dtype, name) + dtype.type(added)
            writer.store_feature_chunk(name, values.astype(dtype, copy=False))

    def _store_internal(
        self,
        writer: HDF5Writer,
        recording: Recording,
        group: Sequence[str],
        referred: _Referred,
        clock: Clock,
    ) -> None:
        """Append the internal data of one input that its events use."""
        features = {name: recording[name] for name in group}
        rows = features[group[0]].source[1]
        n_rows = int(rows.max()) + 1 if len(rows) else 0
        for name, found in features.items():
            self._store_rows(writer, name, found, BASIN_GROUP, clock, slice(0, n_rows))
            self._done_bytes += len(rows) * self._event_bytes(name)
            clock.show(self._done_bytes)
        referred.add(rows, len(rows))
        referred.n_source += n_rows

    def _refer(self, recording: Recording, item: JoinInput) -> None:
        """Note where the data are that the output only refers to."""
        mapped = self.plan.names("mapped")
        if mapped:
            source, rows = recording[mapped[0]].source
            if self._mapped_to is None:
                self._mapped_to = Path(os.fsdecode(source.file.filename)), _identifier(source.file)
            self._mapped.add(rows, item.n_events)
        for name, pieces in self._pieces.items():
            source, rows = _find(recording, name).source
            self._virtual_attributes.setdefault(name, dict(source.attrs))
            pieces.append(
                Piece(
                    path=Path(os.fsdecode(source.file.filename)),
                    dataset=source.name,
                    first=0 if rows is None or not len(rows) else int(rows[0]),
                    n_events=item.n_events,
                    n_rows=source.shape[0],
                )
            )

    # -- what belongs to all of it ----------------------------------------------------------

    def store_rest(self, writer: HDF5Writer) -> list[Basin]:
        """Attributes, metadata, logs and tables of all inputs, and the basins."""
        h5 = writer.h5
        metadata, earliest = joined_metadata(self.plan.inputs)
        n_before = 0
        for number, item, recording in self._opened():
            prefix = f"src-#{number + 1}_"
            if number == 0:
                copy_root_attributes(recording.h5, h5)
                self._copy_attributes(recording, h5)
            if number == earliest:
                keys = [f"experiment:{key}" for key in ("date", "time", "timestamp")]
                copy_root_attributes(recording.h5, h5, keys)
            copy_texts(recording.h5, h5, prefix)
            _store_log(writer, f"{prefix}cfg", configuration_lines(item.metadata))
            if left_out := self.plan.left_out[number]:
                lines = [line for basin in left_out for line in _basin_lines(basin)]
                _store_log(writer, f"{prefix}basins", lines)
            for name in self.plan.names("chopped"):
                append_chopped(recording.h5, h5, name, n_before)
            n_before += item.n_events
        for key, value in channels_left_out(self.plan.inputs, self.plan.features).items():
            if value is None:
                del h5.attrs[key]
            else:
                metadata[key] = value
        writer.store_metadata(metadata)
        basins = list(self._basins(h5))
        return self._store_basins(writer, basins)

    def _copy_attributes(self, recording: Recording, h5: File) -> None:
        """Attributes of the first input's features."""
        source = recording.h5["events"]
        copy_plain_attributes(source, h5["events"])
        if "trace" in source and "trace" in h5["events"]:
            copy_plain_attributes(source["trace"], h5["events/trace"])
        stored = [("events", name) for name in self.plan.names("stored")]
        internal = [(BASIN_GROUP, name) for name in self.plan.names("internal")]
        for group_name, name in [*stored, *internal]:
            copy_plain_attributes(_find(recording, name).source[0], h5[group_name][name])

    def _basins(self, h5: File) -> Iterator[tuple[Basin, Mapping1D | None]]:
        """Basins of the output, each with its mapping."""
        first = self.plan.inputs[0]
        own = {basin.key: basin.basin for basin in first.basins}
        identifier = _identifier(h5)
        for linked, referred in zip(self.plan.linked, self._linked, strict=True):
            yield self._linked_basin(linked), referred.mapping()
        for group, referred in zip(self.plan.internal, self._internal, strict=True):
            basin = own[first.columns[group[0]].basin or ""]
            if basin is not None:
                yield replace(basin, features=tuple(sorted(group))), referred.mapping()
        chopped: dict[str, list[str]] = {}
        for name in self.plan.names("chopped"):
            chopped.setdefault(first.columns[name].basin or "", []).append(name)
        for key, names in chopped.items():
            basin = own[key]
            if basin is not None:
                yield replace(basin, features=tuple(names)), None
        if self._mapped_to is not None:
            path, of_file = self._mapped_to
            features = self.plan.names("mapped")
            yield self._file_basin(path, features, of_file), self._mapped.mapping()
        if self.path_virtual is not None:
            features = sorted({name.partition("/")[0] for name in self.plan.names("virtual")})
            yield self._file_basin(self.path_virtual, features, identifier), None

    def _file_basin(self, path: Path, features: Sequence[str], identifier: str | None) -> Basin:
        return Basin(
            name=path.name,
            type="file",
            format="hdf5",
            locations=tuple(locations_of(path, self.path_out.parent)),
            features=tuple(features),
            description=f"Joined recordings are referred to, by dcwrite {__version__}",
            identifier=identifier,
        )

    def _linked_basin(self, linked: Sequence[LinkedBasin]) -> Basin:
        """A basin that all inputs have, with locations that lead there from the output."""
        basin = linked[0].basin
        if basin is None:
            raise AssertionError("basins that are not understood are not linked")
        if basin.type != "file":
            return basin
        folder = self.plan.inputs[0].path.resolve().parent
        absolute = [str((folder / location).resolve()) for location in basin.locations]
        found = [Path(linked[0].target[2][0])] if linked[0].reachable else map(Path, absolute)
        locations = [place for path in found for place in locations_of(path, self.path_out.parent)]
        kept = [place for place in basin.locations if Path(place).is_absolute()]
        return replace(basin, locations=tuple(dict.fromkeys([*locations, *kept])))

    def _store_basins(
        self, writer: HDF5Writer, basins: Sequence[tuple[Basin, Mapping1D | None]]
    ) -> list[Basin]:
        stored: dict[bytes, str] = {}
        described = []
        for basin, mapping in basins:
            if mapping is None:
                basin = basin.with_mapping(None)  # noqa: PLW2901 - the one that is stored
            else:
                name = stored.setdefault(mapping.tobytes(), f"basinmap{len(stored)}")
                if name not in writer.h5["events"]:
                    writer.store_feature_chunk(name, mapping)
                basin = basin.with_mapping(name)  # noqa: PLW2901
            describe_basin(writer, basin)
            described.append(basin)
        return described

    def store_virtual(self, writer: HDF5Writer, attributes: Mapping[str, Any]) -> None:
        """Write the file with the virtual datasets.

        Parameters
        ----------
        writer
            Of that file.
        attributes
            Root attributes of the joined file: dclab reads a basin only if it has the same
            measurement identifier.
        """
        h5 = writer.h5
        for key, value in attributes.items():
            h5.attrs[key] = value
        first = self.plan.inputs[0]
        for name, pieces in self._pieces.items():
            column = first.columns[name]
            if column.item_shape is None or column.dtype is None or self.path_virtual is None:
                raise AssertionError("what is virtual has a shape and a dtype")
            group_name, _, dataset = f"events/{name}".rpartition("/")
            store_virtual_dataset(
                h5.require_group(group_name),
                dataset,
                pieces,
                column.item_shape,
                column.dtype,
                self.path_virtual.parent,
                self._virtual_attributes[name],
            )


def _store_log(writer: HDF5Writer, name: str, lines: Sequence[str]) -> None:
    """Store a log beside those of the input, one of which may have that name."""
    logs = writer.h5.get("logs", ())
    while name in logs:
        name += "_"
    writer.store_log(name, lines)


def _find(recording: Recording, name: str) -> Any:
    """A feature by the name of its column."""
    group, _, trace = name.partition("/")
    return recording[group][trace] if trace else recording[name]


def _identifier(h5: File) -> str | None:
    """Measurement identifier by which a basin is checked; None where readers do not agree."""
    return get_measurement_identifier(h5) if readers_agree(h5.attrs) else None


def _mapping_of(recording: Recording, linked: LinkedBasin) -> npt.NDArray[Any] | None:
    """Mapping of a basin of an input; None: it has the same events."""
    if linked.basin is None or linked.basin.mapping is None:
        return None
    mapping: npt.NDArray[Any] = recording[linked.basin.mapping][:]
    return mapping


def _basin_lines(linked: LinkedBasin) -> list[str]:
    """The description of a basin that was left out, as lines of a log."""
    if linked.basin is None:
        return [f"basin '{linked.key}': not understood"]
    return folded_lines(json.loads(linked.basin.to_text()))
