"""One part of a split is written: its events, and what belongs to all parts.

Alone here: what a part has of the recording's features, basins and metadata. Invariant: what can
be read of an event in the recording can be read of it in its part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from .._version import __version__
from ..errors import UnsupportedFeatureError
from ..format.features import is_basinmap
from ..format.identifier import identifier_of_selection, readers_agree
from ..store.basins import copy_basins
from ..store.copying import copy_metadata
from ..store.joining import copy_plain_attributes
from ..store.objects import copy_unknown
from ..store.recording import Contours, Feature, Recording
from ..store.writer import HDF5Writer
from .job_log import describe_input, job_lines, store_job_log
from .origins import locations_of
from .progress import Clock

__all__ = ["PartWriter"]

#: What a contour counts in the progress.
CONTOUR_BYTES: Final = 500


class PartWriter:
    """Writes the parts of one recording.

    Parameters
    ----------
    recording
        The recording, open.
    folder
        Where the parts will be.
    options
        For the job log.
    link
        Whether images and contours are referred to.
    """

    def __init__(
        self, recording: Recording, folder: Path, options: Mapping[str, Any], *, link: bool
    ) -> None:
        self._recording = recording
        self._folder = folder
        self._options = options
        self._input = describe_input(recording.path)
        self._done_bytes = 0
        self.n_moved = self.n_recoded = 0
        self._items, linked = _items(recording, link=link)
        self._keys: set[str] | None = None
        chopped: set[str] = set()
        for status in recording.basins:
            basin = status.basin
            if basin is None or basin.type != "internal":
                continue
            if basin.format == "h5datasetchop":
                chopped.update(basin.features or ())
            elif link and not all(_is_scalar(recording, feat) for feat in status.features):
                linked.update(status.features)
                self._keys = self._keys or {other.key for other in recording.basins}
                self._keys.discard(status.key)
        own = set(recording.own_features)
        #: features for which the parts refer to the recording
        self.references = sorted(linked | (chopped - own))

    def total_bytes(self) -> int:
        """Size in memory of all that is copied."""
        return len(self._recording) * sum(map(_event_bytes, self._items.values()))

    def write(
        self, writer: HDF5Writer, number: int, n_parts: int, first: int, stop: int, clock: Clock
    ) -> None:
        """Write one part."""
        for name, item in self._items.items():
            source, inner = item.source
            done, size = self._done_bytes, _event_bytes(item)

            def show(n_rows: int, done: int = done, size: int = size) -> None:
                clock.show(done + n_rows * size)

            if name == "index":
                numbers = np.arange(1, stop - first + 1)
                writer.store_feature_chunk(name, numbers.astype(source.dtype))
            else:
                counts = writer.store_feature_rows(
                    name,
                    source,
                    slice(first, stop) if inner is None else inner[first:stop],
                    on_rows=show,
                )
                if isinstance(item, Feature):
                    self.n_moved += counts.n_moved
                    self.n_recoded += counts.n_recoded
            self._done_bytes += (stop - first) * size
            clock.show(self._done_bytes)
        writer.flush()
        self._write_rest(writer, number, n_parts, first, stop)

    def _write_rest(
        self, writer: HDF5Writer, number: int, n_parts: int, first: int, stop: int
    ) -> None:
        recording, h5 = self._recording, writer.h5
        copy_plain_attributes(recording.h5["events"], h5["events"])
        for name, item in self._items.items():
            copy_plain_attributes(item.source[0], h5["events"][name])
            if name.startswith("trace/"):
                copy_plain_attributes(item.source[0].parent, h5["events/trace"])
        copy_metadata(recording.h5, h5, keep_empty=True)
        copy_unknown(recording.h5, h5)
        rows = np.arange(first, stop)
        metadata: dict[str, Any] = {"experiment:event count": stop - first}
        identifier = identifier_of_selection(recording.identifier, rows)
        if identifier is not None:
            metadata["experiment:run identifier"] = identifier
        writer.store_metadata(metadata)
        copy_basins(recording.h5, h5, rows=rows, keys=self._keys)
        if self.references:
            writer.store_basin(
                name=recording.path.name,
                paths=locations_of(recording.path, self._folder),
                features=self.references,
                description=f"The recording that was split, by dcwrite {__version__}",
                mapping=rows,
                identifier=recording.identifier if readers_agree(recording.h5.attrs) else None,
            )
        options = {
            **self._options, "part": number, "parts": n_parts,
            "first_event": first, "n_events": stop - first,
        }  # fmt: skip
        store_job_log(writer, "split", job_lines("split", options, [self._input]))


def _items(recording: Recording, *, link: bool) -> tuple[dict[str, Feature | Contours], set[str]]:
    """Features that are copied, one entry per trace, and those that are referred to."""
    items: dict[str, Feature | Contours] = {}
    linked: set[str] = set()
    names = {name for name in recording.own_features if not is_basinmap(name)}
    if "trace" in recording.features:
        names.add("trace")  # dclab reads no traces through a mapping, so they are always copied
    for name in sorted(names):
        item = recording[name]
        if name == "trace" and isinstance(item, Mapping):
            items.update({f"{name}/{key}": trace for key, trace in item.items()})
        elif isinstance(item, Mapping):
            raise UnsupportedFeatureError(
                f"'{recording.path}', feature '{name}': expected a dataset, or one of the groups "
                f"'trace' and 'contour', got another group; leave it out with `dcwrite copy`"
            )
        elif link and (isinstance(item, Contours) or len(item.shape) > 1):
            linked.add(name)
        else:
            items[name] = item
    return items, linked


def _is_scalar(recording: Recording, name: str) -> bool:
    item = recording[name]
    return isinstance(item, Feature) and len(item.shape) == 1


def _event_bytes(item: Feature | Contours) -> int:
    """Size of an event in memory."""
    if isinstance(item, Contours):
        return CONTOUR_BYTES
    return int(np.prod(item.shape[1:], dtype=object)) * int(item.dtype.itemsize)
