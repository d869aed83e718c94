"""Recording: read what an .rtdc file says, its basins followed. Small on purpose: no second dclab.

Alone here: where a feature's data are, and which basins are followed. Invariant: nothing is
opened but the recording itself and regular files below its folder (or below folders that the
caller allows); no network; a basin that refers back is not followed.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import (
    BasinError,
    ClosedError,
    DamagedFileError,
    DataError,
    DCWriteError,
    FeatureNotFoundError,
    RecordingError,
)
from ..format.basin import Basin
from ..format.features import as_mapping, is_basinmap
from ..format.text import decode_lines
from .basins import get_measurement_identifier, scan_basins
from .encoder import ChunkCodec, EncoderPool
from .hdf5 import (
    content_errors,
    datasets_of,
    open_for_reading,
    own_item,
    read_whole,
    refuse_far_data,
)
from .rows import take_rows
from .virtual import require_sources

__all__ = ["BasinStatus", "Contours", "Feature", "Recording", "event_number"]

AnyArray = npt.NDArray[Any]

#: Basins of basins of basins ... are followed that far,
MAX_DEPTH: Final = 10
#: and so many files are opened in all: files that refer to each other make many ways.
MAX_FILES: Final = 100
#: A chunk of more than this is not unpacked (the largest real ones have some 10 MiB).
MAX_CHUNK_BYTES: Final = 1024**3


def event_number(key: Any, n_events: int, what: str) -> int:
    """Number of an event, counted from the end where it is negative.

    Raises
    ------
    IndexError
        There is no such event.
    """
    number = operator.index(key)
    if not -n_events <= number < n_events:
        raise IndexError(f"{what}: expected an event below {n_events}, got {number}")
    return number % n_events


class Feature:
    """One feature, read lazily.

    Parameters
    ----------
    name
        Feature name.
    dset
        Where the data are.
    rows
        Index into `dset` for each event; None: the same.
    """

    def __init__(self, name: str, dset: h5py.Dataset, rows: AnyArray | None) -> None:
        self.name = name
        self._dset = dset
        self._rows = rows
        self._is_mask = name == "mask"
        n_events = dset.shape[0] if rows is None else len(rows)
        self.shape: tuple[int, ...] = (n_events, *dset.shape[1:])
        self.dtype: np.dtype[Any] = np.dtype(bool) if self._is_mask else dset.dtype

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the dataset."""
        return dict(self._dset.attrs)

    @cached_property
    def _codec(self) -> ChunkCodec | None:
        return ChunkCodec.for_dataset(self._dset)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def source(self) -> tuple[h5py.Dataset, AnyArray | None]:
        """Where the data are, and for each event its row there; None: the same."""
        return self._dset, self._rows

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> AnyArray:
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, key: Any) -> Any:
        """Events by index, slice, integer array or bool array; a mask comes as bool.

        Raises
        ------
        DamagedFileError
            The rows cannot be read.
        """
        try:
            return self._get(key)
        except (OSError, RuntimeError, ValueError) as exc:
            if isinstance(exc, DCWriteError):
                raise
            raise DamagedFileError(
                f"'{self._dset.file.filename}': '{self._dset.name}' cannot be read ({exc})"
            ) from exc

    def _get(self, key: Any) -> Any:
        if isinstance(key, (int, np.integer)):
            number = event_number(key, len(self), f"feature '{self.name}'")
            row = number if self._rows is None else int(self._rows[number])
            value = self._dset[row]
            return value != 0 if self._is_mask else value
        values = self._read(key)
        return values != 0 if self._is_mask else values

    def _read(self, key: Any) -> AnyArray:
        if isinstance(key, slice):
            if self._rows is None and (key.step is None or key.step == 1):
                rows: AnyArray = self._dset[key]
                return rows
            wanted = np.arange(len(self))[key]
        else:
            wanted = np.asarray(key)
            if wanted.dtype == np.bool_:
                if wanted.shape != (len(self),):
                    raise IndexError(
                        f"feature '{self.name}': expected a selection of shape ({len(self)},), "
                        f"got {wanted.shape}"
                    )
                wanted = np.flatnonzero(wanted)
            elif wanted.size == 0:
                wanted = wanted.astype(np.int64)
            elif wanted.ndim != 1 or wanted.dtype.kind not in "iu":
                raise IndexError(
                    f"feature '{self.name}': expected an index, a slice or a one-dimensional "
                    f"integer or bool array, got {key!r}"[:200]
                )
            elif wanted.min() < -len(self) or wanted.max() >= len(self):
                raise IndexError(
                    f"feature '{self.name}': expected events below {len(self)}, got "
                    f"{wanted.min()} to {wanted.max()}"
                )
            else:
                wanted = np.where(wanted < 0, wanted.astype(np.int64) + len(self), wanted)
        rows = wanted if self._rows is None else self._rows[wanted]
        return take_rows(self._dset, rows, EncoderPool(1), self._codec)


class Contours(Sequence[AnyArray]):
    """The contours of all events: arrays of shape (points, 2), read lazily."""

    def __init__(self, group: h5py.Group, rows: AnyArray | None) -> None:
        self._group = group
        self._rows = rows
        self._length = len(group) if rows is None else len(rows)

    @property
    def source(self) -> tuple[h5py.Group, AnyArray | None]:
        """Where the data are, and for each event its number there; None: the same."""
        return self._group, self._rows

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self[number] for number in range(*key.indices(len(self)))]
        number = event_number(key, len(self), "contour")
        row = number if self._rows is None else int(self._rows[number])
        item = own_item(self._group, str(row))
        if not isinstance(item, h5py.Dataset):
            raise DamagedFileError(
                f"'{self._group.file.filename}': expected the contour of event {row}, got none"
            )
        return read_whole(item)


@dataclass(slots=True)
class BasinStatus:
    """A basin and what became of following it.

    Attributes
    ----------
    key
        Name of the dataset in the group "basins".
    basin
        The description; None if it could not be understood.
    reachable
        Whether its data can be read here.
    reason
        Why not.
    outside
        Whether a file was not looked for because it is in a folder that is not allowed.
    path
        File that was found for a file basin.
    features
        Features that it provides here.
    """

    key: str
    basin: Basin | None
    reachable: bool = False
    reason: str | None = None
    outside: bool = False
    path: Path | None = None
    features: list[str] = field(default_factory=list)
    recording: Recording | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        basin = self.basin
        return {
            "key": self.key,
            "name": basin.name if basin else None,
            "type": basin.type if basin else None,
            "format": basin.format if basin else None,
            "locations": list(basin.locations) if basin else [],
            "mapping": basin.mapping if basin else None,
            "identifier": basin.identifier if basin else None,
            "features": self.features,
            "reachable": self.reachable,
            "reason": self.reason,
            "outside": self.outside,
            "path": str(self.path) if self.path else None,
        }


class _OutsideError(BasinError):
    """A basin's file is in a folder that is not allowed."""


class Recording(Mapping[str, Any]):
    """An .rtdc file, read-only.

    Parameters
    ----------
    path
        The file.
    basin_roots
        Folders below which file basins may be opened, besides the recording's own folder.
    live
        Whether to follow a recording that is being written: see `LiveRecording`.

    Raises
    ------
    StorageError
        The file is not there or cannot be read.
    DamagedFileError
        It is no HDF5 file, or has no events.

    Examples
    --------
    >>> with Recording(path) as recording:
    ...     deform = recording["deform"][:]
    """

    def __new__(cls, *_args: Any, live: bool = False, **_kwargs: Any) -> Self:
        """A `LiveRecording` where it is asked for."""
        if live and cls is Recording:
            from .live import LiveRecording  # noqa: PLC0415 - which is a Recording itself

            return super().__new__(LiveRecording)  # type: ignore[return-value]
        return super().__new__(cls)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        live: bool = False,  # noqa: ARG002 - for __new__
        basin_roots: Iterable[str | os.PathLike[str]] = (),
        _visited: tuple[Path, ...] = (),
        _opened: list[Path] | None = None,
    ) -> None:
        self.path = Path(path)
        self._roots = [Path(root).resolve() for root in basin_roots]
        self._visited = (*_visited, self.path.resolve())
        #: files that were opened on the way, shared by all basins of basins
        self._opened: list[Path] = [] if _opened is None else _opened
        self._statuses: list[BasinStatus] | None = None
        #: virtual datasets whose sources were found
        self._virtual: set[str] = set()
        self.h5 = open_for_reading(self.path)
        try:
            self._events = _require_events(self.h5)
        except BaseException:
            self.h5.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and those of its basins."""
        for status in self._statuses or ():
            if status.recording is not None:
                status.recording.close()
        self._statuses = None
        self.h5.close()

    # -- features ---------------------------------------------------------------------------

    @property
    def own_features(self) -> list[str]:
        """Features whose data are in the file, mappings of basins included."""
        self._require_open()
        with content_errors(self.path, "listing the features"):
            return sorted(
                name
                for name in self._events
                if isinstance(name, str) and own_item(self._events, name) is not None
            )

    @property
    def features(self) -> list[str]:
        """All features that can be read, those of basins included, mappings not."""
        names = set(self.own_features)
        for status in self.basins:
            names.update(status.features)
        return sorted(name for name in names if not is_basinmap(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __contains__(self, feat: object) -> bool:
        return feat in self.own_features or feat in self.features

    def __len__(self) -> int:
        """Number of events."""
        count = self.h5.attrs.get("experiment:event count")
        if count is not None and np.ndim(count) == 0 and np.asarray(count).dtype.kind in "iu":
            return int(count)
        return max(self.lengths().values(), default=0)

    def __getitem__(self, feat: str) -> Any:
        """A feature.

        Returns
        -------
        Feature, dict of Feature ("trace"), or Contours ("contour")

        Raises
        ------
        FeatureNotFoundError
            Neither the file nor a reachable basin has it.
        DamagedFileError
            A mapping points outside of its basin.
        """
        self._require_open()
        with content_errors(self.path, f"looking for feature '{feat}'"):
            return self._find(feat)

    def _find(self, feat: str) -> Any:
        group, rows = self._locate(feat)
        item = own_item(group, feat)
        if isinstance(item, h5py.Dataset):
            return self._feature(feat, item, rows)
        if item is None:
            raise FeatureNotFoundError(f"'{self.path}': feature '{feat}' is a broken link")
        if feat == "contour":
            return Contours(item, _checked_rows(rows, len(item), feat, self.path))
        traces = {name: own_item(item, name) for name in item}
        return {
            name: self._feature(name, dset, rows)
            for name, dset in traces.items()
            if isinstance(dset, h5py.Dataset)
        }

    def _feature(self, name: str, dset: h5py.Dataset, rows: AnyArray | None) -> Feature:
        if dset.shape is None or dset.ndim == 0:
            raise DamagedFileError(f"'{self.path}': '{dset.name}' has no axis of events")
        if not dset.is_virtual:
            refuse_far_data(dset)
        elif dset.name not in self._virtual:
            require_sources(dset, self._allowed_roots())
            self._virtual.add(dset.name)
        if dset.chunks and math.prod(dset.chunks) * dset.dtype.itemsize > MAX_CHUNK_BYTES:
            raise DamagedFileError(
                f"'{self.path}': '{dset.name}': expected chunks up to 1 GiB, got {dset.chunks}"
            )
        return Feature(name, dset, _checked_rows(rows, dset.shape[0], name, self.path))

    def _locate(self, feat: str) -> tuple[h5py.Group, AnyArray | None]:
        """Group that holds a feature, and the row for each event."""
        if own_item(self._events, feat) is not None:
            return self._events, None
        for status in self.basins:
            if feat not in status.features or status.basin is None:
                continue
            rows = self._mapping(status.basin)
            if status.recording is None:
                return self.h5[status.basin.locations[0]], rows
            group, inner = status.recording._locate(feat)  # noqa: SLF001 - of this class
            if inner is None or rows is None:
                return group, rows if inner is None else inner
            return group, inner[_checked_rows(rows, len(inner), feat, self.path)]
        unread = [f"{status.reason}" for status in self.basins if status.reason]
        hint = f"; some basins cannot be read: {'; '.join(unread)}" if unread else ""
        raise FeatureNotFoundError(
            f"'{self.path}': expected one of the features {self.features}, got '{feat}'{hint}"
        )

    def lengths(self) -> dict[str, int]:
        """Number of events of each feature in the file, one entry per trace."""
        with content_errors(self.path, "reading the lengths"):
            found = {
                name: int(dset.shape[0]) if dset.shape else 0
                for name, dset in datasets_of(self._events).items()
            }
            contour = own_item(self._events, "contour")
            if isinstance(contour, h5py.Group):
                found["contour"] = len(contour)
        return found

    def check_consistent(self) -> None:
        """Compare all lengths with the event count.

        Raises
        ------
        RecordingError
            They differ.
        """
        lengths = self.lengths()
        if len({*lengths.values(), len(self)}) > 1:
            by_length: dict[int, list[str]] = {}
            for name, length in lengths.items():
                by_length.setdefault(length, []).append(name)
            shown = "; ".join(
                f"{length} events: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
                for length, names in sorted(by_length.items())
            )
            raise RecordingError(
                f"'{self.path}': expected all features to have {len(self)} events (the event "
                f"count), got {shown}; the recording is inconsistent and was not used; "
                f"`dcwrite copy IN OUT --exclude FEATURE` leaves out what has another length"
            )

    # -- what is beside the features --------------------------------------------------------

    @property
    def metadata(self) -> dict[str, Any]:
        """Root attributes "section:key"; text as str, numbers as Python numbers."""
        self._require_open()
        found = {}
        with content_errors(self.path, "reading the attributes"):
            for key, value in self.h5.attrs.items():
                if isinstance(value, bytes):
                    found[key] = value.decode("utf-8", "replace")
                else:
                    found[key] = value.item() if isinstance(value, np.generic) else value
        return found

    @property
    def logs(self) -> dict[str, list[str]]:
        """Logs by name, as lines."""
        return {
            name: decode_lines(np.atleast_1d(read_whole(item)).ravel().tolist())
            for name, item in self._datasets("logs")
            if item.dtype.kind in "SO"
        }

    @property
    def tables(self) -> dict[str, AnyArray]:
        """Tables by name, as structured arrays."""
        return {name: read_whole(item) for name, item in self._datasets("tables")}

    @property
    def identifier(self) -> str | None:
        """The measurement identifier."""
        return get_measurement_identifier(self.h5)

    def _datasets(self, group_name: str) -> Iterator[tuple[str, h5py.Dataset]]:
        self._require_open()
        group = own_item(self.h5, group_name)
        if isinstance(group, h5py.Group):
            with content_errors(self.path, f"listing the {group_name}"):
                names = list(group)
            for name in names:
                item = own_item(group, name)
                if isinstance(item, h5py.Dataset) and item.shape is not None:
                    yield name, item

    # -- basins -----------------------------------------------------------------------------

    @property
    def basins(self) -> list[BasinStatus]:
        """All basins, in the order in which they are searched; opened on first use."""
        self._require_open()
        if self._statuses is None:
            self._statuses = []
            with content_errors(self.path, "reading the basins"):
                self._statuses = [self._follow(key, found) for key, found in scan_basins(self.h5)]
        return self._statuses

    def _follow(self, key: str, basin: Basin | BasinError) -> BasinStatus:
        if isinstance(basin, BasinError):
            return BasinStatus(key, None, reason=str(basin))
        status = BasinStatus(key, basin)
        if basin.type == "internal":
            self._follow_internal(status, basin)
        elif basin.type == "file":
            self._follow_file(status, basin)
        elif basin.type == "remote":
            status.reason = "remote basins are not opened here; dclab opens them"
        else:
            status.reason = f"the basin type '{basin.type}' is not known"
        return status

    def _follow_internal(self, status: BasinStatus, basin: Basin) -> None:
        location = basin.locations[0]
        group = own_item(self.h5, location)
        there = [name for name in basin.features or () if isinstance(group, h5py.Group)
                 and own_item(group, name) is not None]  # fmt: skip
        missing = sorted(set(basin.features or ()) - set(there))
        if not basin.features or missing:
            status.reason = (
                f"expected the data of {missing or 'a list of features'} in '{location}'"
            )
        elif basin.format == "h5datasetchop":
            status.reason = "chopped images are put together by dclab only"
        elif basin.mapping is None:
            status.reason = "an internal basin has to have a mapping"
        else:
            status.reachable = True
            status.features = [name for name in there if not is_basinmap(name)]

    def _follow_file(self, status: BasinStatus, basin: Basin) -> None:
        reasons = []
        for location in basin.locations:
            try:
                path = self._allowed_path(location)
                if len(self._visited) > MAX_DEPTH:
                    raise BasinError(f"more than {MAX_DEPTH} basins refer to each other")
                if len(self._opened) >= MAX_FILES:
                    raise BasinError(f"more than {MAX_FILES} files would have to be opened")
                self._opened.append(path)
                recording = Recording(
                    path,
                    basin_roots=self._allowed_roots(),
                    _visited=self._visited,
                    _opened=self._opened,
                )
            except (DCWriteError, OSError, ValueError) as exc:
                status.outside |= isinstance(exc, _OutsideError)
                reasons.append(f"'{location}': {exc}")
                continue
            if basin.identifier is not None and recording.identifier != basin.identifier:
                reasons.append(
                    f"'{location}': expected the measurement identifier '{basin.identifier}', got "
                    f"'{recording.identifier}'"
                )
                recording.close()
                continue
            status.reachable, status.path, status.recording = True, path, recording
            status.outside = False
            provided = recording.features
            if basin.features is not None:
                provided = [name for name in provided if name in basin.features]
            status.features = provided
            return
        status.reason = "; ".join(reasons)

    def _allowed_roots(self) -> list[Path]:
        return [self.path.resolve().parent, *self._roots]

    def _allowed_path(self, location: str) -> Path:
        """The regular file that a location names, if it may be opened."""
        if "://" in location or location.startswith(("\\\\", "//")):
            raise BasinError("expected a path, got a network location")
        path = (self.path.resolve().parent / location).resolve()
        if not any(path.is_relative_to(root) for root in self._allowed_roots()):
            raise _OutsideError(
                "outside of the recording's folder; allow its folder with basin_roots "
                "(--basin-root)"
            )
        if path in self._visited:
            raise BasinError("refers back to a recording that refers to it")
        return path

    def _mapping(self, basin: Basin) -> AnyArray | None:
        if basin.mapping is None:
            return None
        item = own_item(self._events, basin.mapping)
        if not isinstance(item, h5py.Dataset):
            raise DamagedFileError(
                f"'{self.path}': expected the mapping '{basin.mapping}' of basin '{basin.name}', "
                f"got none"
            )
        rows: AnyArray = read_whole(item)
        return rows

    def _require_open(self) -> None:
        if not self.h5.id.valid:
            raise ClosedError(f"'{self.path}': the recording is closed; open a new one")


def _require_events(h5: h5py.File) -> h5py.Group:
    events = own_item(h5, "events")
    if not isinstance(events, h5py.Group):
        raise DamagedFileError(
            f"'{h5.filename}': expected a group 'events', got none; this is no recording; "
            f"check the name"
        )
    return events


def _checked_rows(rows: AnyArray | None, n_source: int, feat: str, path: Path) -> AnyArray | None:
    """A mapping that stays inside what it maps."""
    if rows is None:
        return None
    try:
        rows = as_mapping(rows, n_source, f"'{path}', feature '{feat}': mapping")
    except DataError as exc:
        raise DamagedFileError(str(exc)) from exc
    return rows.astype(np.intp)  # small integers overflow where rows become chunks
