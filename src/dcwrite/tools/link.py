"""A file that refers to other recordings, which stay where they are.

Alone here: which recordings may stand together in one file. Invariant: every input was opened and
has the same events of the same measurement; nothing that the file refers to leads back to it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import RecordingError, UsageError
from ..format.features import is_basinmap
from ..format.identifier import identifier_of_selection
from ..store.basins import create_with_basins, get_measurement_identifier
from ..store.recording import Recording
from ..store.writer import HDF5Writer
from .job_log import job_lines, store_job_log
from .names import choose_linked_features
from .origins import is_same_file, is_url, locations_of, open_input, refuse_cycles, refuse_origins
from .progress import Clock, Report
from .selection import checked_index

__all__ = ["LinkSummary", "link"]


@dataclass(frozen=True, slots=True)
class LinkSummary:
    """What a file of basins is.

    Attributes
    ----------
    path_out, paths
        The file, and the recordings that it refers to.
    n_events
        Events of the file.
    identifier
        Its measurement identifier.
    features
        Features that can be read through it.
    basins
        Its basins, as in `BasinStatus.to_dict`.
    notes
        Basins that cannot be reached, one sentence each.
    size_bytes_out
        Size of the file.
    """

    path_out: Path
    paths: tuple[Path, ...]
    n_events: int
    identifier: str | None
    features: tuple[str, ...]
    basins: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    size_bytes_out: int

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            **asdict(self),
            "path_out": str(self.path_out),
            "paths": [str(path) for path in self.paths],
        }


def link(
    path_out: str | os.PathLike[str],
    paths: Sequence[str | os.PathLike[str]],
    *,
    features: str | Sequence[str] | None = None,
    mapping: str | os.PathLike[str] | npt.ArrayLike | None = None,
    relative_only: bool = False,
    basin_roots: Sequence[str | os.PathLike[str]] = (),
    overwrite: bool = False,
    progress: Report | None = None,
) -> LinkSummary:
    """Write a file that refers to recordings of one measurement.

    Metadata, logs and tables of the inputs are copied (the first one that has a key wins), and so
    are their basins. Each input is named by its absolute and by its relative path.

    Parameters
    ----------
    path_out
        The file; it appears when it is complete.
    paths
        The recordings, all with the same events; where several have a feature, readers take the
        one whose name comes first in the alphabet.
    features
        Names and patterns ("fl*") of the features that the file provides; "all", "scalar".
        None: all of them.
    mapping
        For each event of the file the event of the inputs: numbers from 0, shape (n,), in any
        order, with repeats, or the path of a file with them, see `numbers_from_file`. None: the
        same events.
    relative_only
        Whether absolute paths are left out.
    basin_roots
        Folders below which basins of the inputs may be opened, besides those of the inputs.
    overwrite
        Whether to replace an existing file.
    progress
        Takes records of progress; the stage is "checking" [files].

    Raises
    ------
    RecordingError
        The inputs are not of the same measurement, or have not the same number of events.
    BasinError
        The basins of an input lead in a circle.
    UsageError
        No input, a URL, an input twice, or an output that an input is or refers to.
    DataError
        Features or mapping do not fit.
    StorageError, DamagedFileError
        An input cannot be read, the output exists, or the disk refuses. Nothing was written.
    """
    path_out, inputs = Path(path_out), [Path(path) for path in paths]
    for path in inputs:
        if is_url(path):
            raise UsageError(
                f"'{path}': expected a recording on this machine, whose events can be compared, "
                f"got a URL; download it first, or refer to the server with "
                f"`HDF5Writer.store_basin(urls=[...], basin_format='http')`"
            )
    _require_distinct(inputs)
    folders = [path.resolve().parent for path in inputs]
    roots = (*map(Path, basin_roots), *folders)
    with ExitStack() as stack:
        recordings = [stack.enter_context(open_input(path, roots)) for path in inputs]
        clock = Clock("checking", len(inputs), "files", progress)
        for number, recording in enumerate(recordings, 1):
            refuse_origins(path_out, recording)
            refuse_cycles(recording)
            clock.show(number)
        identifier = _require_same_events(recordings)
        chosen: list[list[str]] | None = None
        if features is not None:
            chosen = choose_linked_features(recordings, features)
        _require_lengths(recordings, chosen)
        rows = None if mapping is None else checked_index(mapping, len(recordings[0]))
    groups: list[list[str]] = []
    provided: list[list[str] | None] = []
    for number, path in enumerate(inputs):
        if chosen is not None and not chosen[number]:
            continue  # it has none of the features
        groups.append(_locations(path, path_out, relative_only=relative_only))
        provided.append(None if chosen is None else chosen[number])

    def finish(writer: HDF5Writer) -> None:
        expected = identifier if rows is None else identifier_of_selection(identifier, rows)
        if expected is not None and get_measurement_identifier(writer.h5) != expected:
            # parts of it may come from several inputs
            writer.store_metadata({"experiment:run identifier": expected})
        options = {
            "features": None if chosen is None else sorted({n for names in chosen for n in names}),
            "mapping": None if rows is None else f"{len(rows)} numbers",
            "relative_only": relative_only,
        }
        store_job_log(writer, "basins", job_lines("basins", options, inputs))

    create_with_basins(
        path_out, groups, features=provided, mapping=rows, overwrite=overwrite, finish=finish
    )
    return _summary(path_out, inputs, roots)


def _require_distinct(inputs: Sequence[Path]) -> None:
    if not inputs:
        raise UsageError("expected at least one recording to refer to, got none")
    for number, path in enumerate(inputs):
        for other in inputs[:number]:
            if is_same_file(path, other):
                raise UsageError(
                    f"'{path}': expected each recording once, got it as '{other}', too; leave one "
                    f"of them out"
                )


def _require_same_events(recordings: Sequence[Recording]) -> str | None:
    """The measurement identifier of recordings that have the same events, as far as is known."""
    first = recordings[0]
    known = next((item for item in recordings if item.identifier is not None), first)
    for recording in recordings:
        if len(recording) != len(first):
            raise RecordingError(
                f"'{recording.path}': expected {len(first)} events, as many as '{first.path}' "
                f"has, got {len(recording)}; a file can only refer to recordings with the same "
                f"events (`dcwrite join` puts others one after the other)"
            )
        if recording.identifier not in {known.identifier, None}:
            raise RecordingError(
                f"'{recording.path}': expected the measurement identifier '{known.identifier}' of "
                f"'{known.path}', got '{recording.identifier}'; readers refuse a basin of another "
                f"measurement, so leave it out"
            )
    return known.identifier


def _require_lengths(
    recordings: Sequence[Recording], chosen: Sequence[Sequence[str]] | None
) -> None:
    """The features have as many events as the recording."""
    for number, recording in enumerate(recordings):
        if chosen is None:
            recording.check_consistent()
            continue
        wanted = set(chosen[number])
        for name, length in recording.lengths().items():
            feat = name.partition("/")[0]
            if feat in wanted and not is_basinmap(feat) and length != len(recording):
                raise RecordingError(
                    f"'{recording.path}': expected {len(recording)} events of '{name}' (the event "
                    f"count), got {length}; leave it out of the features"
                )


def _locations(path: Path, path_out: Path, *, relative_only: bool) -> list[str]:
    if relative_only and path.name == path_out.name:
        raise UsageError(
            f"'{path_out}': expected another name than '{path.name}', for with a relative path "
            f"alone dclab would take the file for its own basin; choose another name"
        )
    return locations_of(path, path_out.parent, relative_only=relative_only)


def _summary(path_out: Path, inputs: Sequence[Path], roots: Sequence[Path]) -> LinkSummary:
    with Recording(path_out, basin_roots=roots) as recording:
        return LinkSummary(
            path_out=path_out,
            paths=tuple(inputs),
            n_events=len(recording),
            identifier=recording.identifier,
            features=tuple(recording.features),
            basins=tuple(status.to_dict() for status in recording.basins),
            notes=tuple(
                f"basin '{status.basin.name if status.basin else status.key}' cannot be reached "
                f"from here: {status.reason}"
                for status in recording.basins
                if not status.reachable
            ),
            size_bytes_out=path_out.stat().st_size,
        )
