"""Copies of recordings: some features, some events, and what becomes of the basins.

Alone here: which features a copy has, and how it stays connected with its origin. Invariant: every
feature of a copy has the same events; no input is changed, and no output appears before it is
complete.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from .._version import __version__
from ..errors import BasinError, DataError, RecordingError, UsageError
from ..format.basin import FORMATS
from ..format.features import is_basinmap
from ..format.identifier import identifier_of_selection, readers_agree
from ..store.basins import copy_basins, list_basins
from ..store.copying import copy_attributes, copy_metadata
from ..store.encoder import require_count
from ..store.objects import copy_unknown
from ..store.recording import Contours, Feature, Recording
from ..store.space import require_space
from ..store.whole_file import whole_file
from ..store.writer import HDF5Writer
from .job_log import job_lines, store_job_log
from .names import choose_features
from .origins import locations_of, open_input, refuse_origins
from .progress import Clock, Report
from .selection import select_events

__all__ = ["BASIN_MODES", "CopySummary", "copy_recording"]

Rows = npt.NDArray[np.int64]

BasinMode = Literal["keep", "drain", "drop"]
#: What becomes of the basins.
BASIN_MODES: Final = get_args(BasinMode)
#: Characters of an option in a line of the log.
LINE_LENGTH: Final = 72


@dataclass(frozen=True, slots=True)
class CopySummary:
    """What a copy is.

    Attributes
    ----------
    path_in, path_out
        The recordings.
    n_events_in, n_events
        Events of the input, and of the output.
    features
        Features whose data are in the output.
    n_chunks_moved, n_chunks_recoded
        Chunks that were taken over as they are stored, and that were decoded.
    basins
        Names of the output's basins.
    notes
        What is not as one might expect, one sentence each.
    size_bytes_in, size_bytes_out
        Sizes of the files.
    elapsed_s
        Wall time.
    """

    path_in: Path
    path_out: Path
    n_events_in: int
    n_events: int
    features: tuple[str, ...]
    n_chunks_moved: int
    n_chunks_recoded: int
    basins: tuple[str, ...]
    notes: tuple[str, ...]
    size_bytes_in: int
    size_bytes_out: int
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**asdict(self), "path_in": str(self.path_in), "path_out": str(self.path_out)}


def copy_recording(
    path_in: str | os.PathLike[str],
    path_out: str | os.PathLike[str],
    *,
    features: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
    events: str | slice | Iterable[int] | None = None,
    where: str | None = None,
    index: str | os.PathLike[str] | npt.ArrayLike | None = None,
    basins: BasinMode = "keep",
    basin_roots: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    threads: int | None = None,
    progress: Report | None = None,
) -> CopySummary:
    """Copy a recording, or some of its features and events.

    Metadata, logs, tables and groups that are not known are copied whole. A file with other
    events gets a measurement identifier of its own, and its feature "index" counts from 1 again.

    Parameters
    ----------
    path_in
        The recording; it is only read.
    path_out
        The copy; it appears when it is complete.
    features
        Names and patterns ("fl*") of features, own ones and those of basins; "all" or "scalar"
        for the own ones of the recording, with ``basins="drain"`` also for those of basins;
        "none". None: "all".
    exclude
        Names and patterns of features that are left out.
    events, where, index
        Which events, see `select_events`; all that are given have to be met.
    basins
        keep: basins are kept, with mappings for these events, and one to the input is added if
        events or features were left out, so that all data stay reachable; drain: the features of
        the basins that can be read are copied, the others kept as basins; drop: none.
    basin_roots
        Folders below which file basins may be opened, besides the recording's own folder.
    overwrite
        Whether to replace an existing file.
    threads
        Threads that decode and encode; default: the usable cores.
    progress
        Takes records of progress; the stages are "selecting" [events] and "copying" [bytes].

    Raises
    ------
    DataError
        Features, events or the condition do not fit the recording, or nothing is selected.
    RecordingError
        A feature that is copied has another number of events than the recording.
    UsageError
        The output is the input, or a file that the input's basins lead to.
    StorageError, DamagedFileError
        The input cannot be read, the output exists, or the disk refuses. Nothing was written.
    """
    start_s = time.perf_counter()
    require_count("threads", threads)
    path_in, path_out = Path(path_in), Path(path_out)
    if basins not in BASIN_MODES:
        raise UsageError(f"basins: expected one of {', '.join(BASIN_MODES)}, got {basins!r}")
    with (
        open_input(path_in, tuple(basin_roots)) as recording,
        whole_file(path_out, overwrite=overwrite) as temporary,
    ):
        refuse_origins(path_out, recording)
        names = choose_features(recording, features, exclude, drains=basins == "drain")
        n_events_in = len(recording)
        if not names and basins != "keep":
            raise DataError(
                f"'{path_in}': expected at least one feature in a copy without basins, got none; "
                f"name some (--features), or keep the basins"
            )
        rows = select_events(recording, events=events, where=where, index=index, progress=progress)
        if rows is not None and not len(rows):
            raise DataError(
                f"'{path_in}': expected at least one event to be selected, got none of "
                f"{n_events_in}; nothing was written"
            )
        items = _items(recording, names, n_events_in)
        copy = _Copy(recording, path_out, rows, items, basins)
        require_space(path_out, copy.expected_bytes())
        with HDF5Writer(temporary, mode="x", threads=threads) as writer:
            n_moved, n_recoded = copy.store_features(writer, progress)
            kept, notes = copy.store_rest(writer)
            options = {
                "features": list(names),
                "events": _shown(events),
                "where": _shown(where),
                "index": _shown(index),
                "basins": basins,
            }
            store_job_log(writer, "copy", job_lines("copy", options, [path_in]))
    return CopySummary(
        path_in=path_in,
        path_out=path_out,
        n_events_in=n_events_in,
        n_events=copy.n_events,
        features=names,
        n_chunks_moved=n_moved,
        n_chunks_recoded=n_recoded,
        basins=kept,
        notes=notes,
        size_bytes_in=path_in.stat().st_size,
        size_bytes_out=path_out.stat().st_size,
        elapsed_s=time.perf_counter() - start_s,
    )


def _shown(value: Any) -> str | list[str] | None:
    """An option for the log: arrays by length; texts in short lines (dclab alerts for others)."""
    if value is None:
        return None
    if isinstance(value, (str, slice, os.PathLike)):
        text = str(value)
        parts = [text[at : at + LINE_LENGTH] for at in range(0, len(text), LINE_LENGTH)]
        return text if len(parts) < 2 else parts
    return f"{len(value)} numbers" if isinstance(value, Sized) else "numbers"


# -- features -------------------------------------------------------------------------------


def _items(
    recording: Recording, names: Iterable[str], n_events: int
) -> dict[str, Feature | Contours]:
    """Where the data of each feature are, one entry per trace; all with the same events."""
    items: dict[str, Feature | Contours] = {}
    for name in names:
        item = recording[name]
        if not isinstance(item, Mapping):
            items[name] = item
        elif name == "trace":
            items.update({f"{name}/{key}": trace for key, trace in item.items()})
        else:
            raise RecordingError(
                f"'{recording.path}', feature '{name}': expected a dataset, or one of the groups "
                f"'trace' and 'contour', got another group; leave it out (--exclude {name})"
            )
    if bad := {name: len(item) for name, item in items.items() if len(item) != n_events}:
        shown = ", ".join(f"{name} {length}" for name, length in list(bad.items())[:5])
        out = ",".join(sorted({name.partition("/")[0] for name in bad}))
        raise RecordingError(
            f"'{recording.path}': expected all features to have {n_events} events (the event "
            f"count), got {shown}; leave them out (--exclude {out})"
        )
    return items


# -- the copy -------------------------------------------------------------------------------


class _Copy:
    """One copy: the parts of the input, and how they get into the output.

    Parameters
    ----------
    recording
        The input.
    path_out
        The output's final name.
    rows
        Its events; None: all.
    items
        Its features.
    basins
        What becomes of the basins.
    """

    def __init__(
        self,
        recording: Recording,
        path_out: Path,
        rows: Rows | None,
        items: Mapping[str, Feature | Contours],
        basins: BasinMode,
    ) -> None:
        self._recording = recording
        self._path_out = path_out
        self._rows = rows
        self._items = items
        self._basins = basins
        self.n_events = len(recording) if rows is None else len(rows)

    def expected_bytes(self) -> int:
        """About how large the output will be."""
        share = self.n_events / max(1, len(self._recording))
        stored = 0
        for item in self._items.values():
            source, _ = item.source
            if isinstance(item, Feature):
                share_of_source = len(item) / max(1, source.shape[0])
                stored += int(source.id.get_storage_size() * min(1.0, share_of_source))
        return int(stored * min(1.0, share))

    def store_features(self, writer: HDF5Writer, progress: Report | None) -> tuple[int, int]:
        """Copy the events; returns the chunks that were moved, and that were recoded."""
        sizes = {name: _event_bytes(item) for name, item in self._items.items()}
        clock = Clock("copying", self.n_events * sum(sizes.values()), "bytes", progress)
        done = n_moved = n_recoded = 0
        for name, item in self._items.items():
            source, inner = item.source

            def show(n_rows: int, done: int = done, size: int = sizes[name]) -> None:
                clock.show(done + n_rows * size)

            if name == "index" and (self._rows is not None or inner is not None):
                # by definition 1 ... N; "index_online" says which event it was
                numbers = np.arange(1, self.n_events + 1)
                writer.store_feature_chunk(name, numbers.astype(source.dtype))
            else:
                counts = writer.store_feature_rows(
                    name, source, _composed(inner, self._rows), on_rows=show
                )
                n_moved += counts.n_moved
                n_recoded += counts.n_recoded
            done += self.n_events * sizes[name]
            clock.show(done)
        writer.flush()
        return n_moved, n_recoded

    def store_rest(self, writer: HDF5Writer) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Copy everything else; returns the names of the basins, and notes."""
        recording, h5 = self._recording, writer.h5
        h5.require_group("events")
        copy_attributes(recording.h5["events"], h5["events"])
        for name, item in self._items.items():
            source, inner = item.source
            same = self._rows is None and inner is None
            target = h5["events"][name]
            copy_attributes(source, target, same_events=same)
            for key in set(target.attrs) - set(source.attrs) if same else ():
                del target.attrs[key]  # what a new dataset of images is branded with
            if name.startswith("trace/"):
                copy_attributes(source.parent, h5["events/trace"])
        copy_metadata(recording.h5, h5, keep_empty=True)
        copy_unknown(recording.h5, h5)
        writer.store_metadata({"experiment:event count": self.n_events})
        if self._rows is not None:
            identifier = identifier_of_selection(recording.identifier, self._rows)
            if identifier is not None:
                writer.store_metadata({"experiment:run identifier": identifier})
        notes = self._store_basins(writer)
        return tuple(basin.name for _key, basin in list_basins(h5)), notes

    def _store_basins(self, writer: HDF5Writer) -> tuple[str, ...]:
        """Basins for the output's events; returns notes."""
        notes: list[str] = []
        keys: set[str] = set()
        for status in self._recording.basins:
            basin = status.basin
            if self._basins == "drop" or (self._basins == "drain" and status.reachable):
                continue
            if basin is None:
                raise BasinError(
                    f"{status.reason}; leave the basins out (--basins drop), or remove it"
                )
            if basin.format not in FORMATS.get(basin.type, ()):
                notes.append(
                    f"basin '{basin.name}' is left out: its type '{basin.type}', format "
                    f"'{basin.format}', is not known"
                )
                continue
            keys.add(status.key)
            is_kept = self._rows is None or basin.format != "h5datasetchop"
            if self._basins == "drain" and is_kept:
                notes.append(f"basin '{basin.name}' is kept, not copied: {status.reason}")
        try:
            left_out = copy_basins(self._recording.h5, writer.h5, rows=self._rows, keys=keys)
            chopped = sorted({feat for basin in left_out for feat in basin.features or ()})
            if self._basins == "keep":
                self._store_origin(writer, chopped)
        except BasinError as exc:
            raise BasinError(
                f"{exc}; --basins drain copies the data of the basins, --basins drop leaves them "
                f"out"
            ) from exc
        if chopped and self._basins == "drain":
            notes.append(
                f"the images {', '.join(chopped)} are not in the copy: they are stored in parts, "
                f"which can be kept for all events or through --basins keep only"
            )
        return tuple(notes)

    def _store_origin(self, writer: HDF5Writer, chopped: Sequence[str]) -> None:
        """Refer to the input, if there is anything in it that the output has not."""
        recording = self._recording
        lengths = recording.lengths()
        own = [
            name
            for name in recording.own_features
            if not is_basinmap(name) and lengths.get(name, len(recording)) == len(recording)
        ]
        has_all = set(own) <= {name.partition("/")[0] for name in self._items}
        features = sorted({*own, *chopped})
        if self._rows is not None:
            # dclab 0.73 cannot read traces through a mapping
            features = [name for name in features if name != "trace"]
        elif has_all:
            return
        if not features:
            return
        writer.store_basin(
            name=recording.path.name,
            paths=locations_of(recording.path, self._path_out.parent),
            features=features,
            description=f"The recording that this one was copied from, by dcwrite {__version__}",
            mapping=self._rows,
            identifier=recording.identifier if readers_agree(recording.h5.attrs) else None,
        )


def _composed(inner: npt.NDArray[Any] | None, rows: Rows | None) -> npt.NDArray[Any] | None:
    """Rows of what a basin maps to."""
    if inner is None or rows is None:
        return rows if inner is None else inner
    composed: npt.NDArray[Any] = inner[rows]
    return composed


def _event_bytes(item: Feature | Contours) -> int:
    """Size of an event in memory; contours: as if all were like the first."""
    if isinstance(item, Contours):
        return int(item[0].nbytes) if len(item) else 0
    return int(np.prod(item.shape[1:], dtype=object)) * int(item.dtype.itemsize)
