"""From shards to one recording: pieces that fit the chunks, and joining what is there.

Alone here: where the recording may be cut so that chunks can be moved as stored bytes. Invariant:
events keep their order and their values; a feature has the dtype that its first events had.

A shard's events begin anywhere between two chunk boundaries of the recording, for nobody knows
how many come before until all ranges are done. Then the workers write the events once more, cut at
boundaries and compressed as wanted; shards are compressed lightly for that reason. What is left
for the one process that writes the recording is to move bytes.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ..errors import EventError, StorageError
from ..format.chunking import best_chunk_shape
from ..store.hdf5 import open_for_reading
from ..store.moving import MoveCounts
from ..store.writer import HDF5Writer
from .executor import stop_if_cancelled
from .part import Part, make_part
from .run import CONTOUR, FeatureKinds, Run

__all__ = [
    "PieceTask",
    "Source",
    "copy_events",
    "cuts",
    "require_visible",
    "sources_of",
    "unit_of",
    "write_piece",
]

#: How long a file that another machine has written may take to show up here: NFS looks for new
#: names once a minute (acdirmax).
VISIBLE_AFTER_S: Final = 65.0
LOOK_PERIOD_S: Final = 0.5
#: Pieces grow to so many times the size that was asked for, to fit more features' chunks.
LARGEST: Final = 2


@dataclass(frozen=True, slots=True)
class Source:
    """Events of a file, and where they are in the recording."""

    path: Path
    size_bytes: int
    first: int
    n_events: int
    #: for messages
    name: str


@dataclass(frozen=True, slots=True)
class PieceTask:
    """What a worker is asked to do.

    Attributes
    ----------
    run
        The run.
    start, stop
        Events of the recording.
    sources
        Shards that hold them.
    features
        Of the recording.
    """

    run: Run
    start: int
    stop: int
    sources: tuple[Source, ...]
    features: FeatureKinds


def sources_of(parts: Sequence[Part], unit: str) -> list[Source]:
    """Where the events of parts are in the recording; `unit` is that of their ranges."""
    found, first = [], 0
    for part in parts:
        name = f"{unit} {part.start} to {part.stop - 1}"
        found.append(Source(part.path, part.size_bytes, first, part.n_events, name))
        first += part.n_events
    return found


def unit_of(features: FeatureKinds, n_events: int) -> int:
    """Number of events at whose multiples most bytes of the recording can be cut.

    Parameters
    ----------
    features
        Of the recording.
    n_events
        How many a piece should have; the unit is larger only for the feature with most bytes.
    """
    sizes = []
    for feat, (shape, dtype) in features.items():
        if feat != CONTOUR:
            n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
            sizes.append((n_bytes, best_chunk_shape(shape, dtype)[0]))
    unit = 1
    for position, (_, chunk_events) in enumerate(sorted(sizes, reverse=True)):
        common = math.lcm(unit, chunk_events)
        if position == 0 or common <= LARGEST * n_events:
            unit = common
    return unit


def cuts(features: FeatureKinds, n_events: int, n_parts: int) -> list[range]:
    """Ranges of events of the pieces.

    Parameters
    ----------
    features
        Of the recording.
    n_events
        Its events.
    n_parts
        About how many pieces.
    """
    share = -(-n_events // max(1, n_parts))
    unit = unit_of(features, share)
    size = max(1, round(share / unit)) * unit
    return [range(start, min(start + size, n_events)) for start in range(0, n_events, size)]


def write_piece(task: PieceTask) -> Part:
    """Write a piece, if it is not there.

    Raises
    ------
    EventError
        A dtype cannot hold the values.
    DamagedFileError, StorageError
        A shard cannot be read; and the errors of `make_part`.
    """

    def fill(writer: HDF5Writer) -> int:
        for _ in copy_events(writer, task.sources, task.features, task.start, task.stop):
            pass
        return task.stop - task.start

    run = task.run
    return make_part(
        run, "events", task.start, task.stop, fill, compression=run.settings.compression
    )


def copy_events(
    writer: HDF5Writer,
    sources: Sequence[Source],
    features: FeatureKinds,
    start: int,
    stop: int,
) -> Iterator[tuple[Source, MoveCounts]]:
    """Append events of a recording; yields each source that is done, and counts of its chunks.

    Parameters
    ----------
    writer
        Where to.
    sources
        Files that hold them, in order.
    features
        Of the recording.
    start, stop
        Events.
    """
    for source in sources:
        first = max(start, source.first)
        last = min(stop, source.first + source.n_events)
        if first >= last:
            continue
        rows = slice(first - source.first, last - source.first)
        require_visible(source.path, source.size_bytes)
        n_moved = n_recoded = 0
        with open_for_reading(source.path) as h5:
            for feat, (shape, dtype) in features.items():
                data = h5["events"][feat]
                if first == start and feat != CONTOUR and str(data.dtype) != dtype:
                    writer.require_feature(feat, shape, np.dtype(dtype))
                try:
                    counts = writer.store_feature_rows(feat, data, rows, on_rows=stop_if_cancelled)
                except EventError as exc:
                    raise EventError(f"{source.name}: {exc}") from exc
                n_moved += counts.n_moved
                n_recoded += counts.n_recoded
        yield source, MoveCounts(n_moved, n_recoded)


def require_visible(path: Path, size_bytes: int) -> None:
    """Wait until a whole file that is somewhere on a shared file system can be seen here.

    Raises
    ------
    StorageError
        It cannot, within the time that network file systems take.
    """
    deadline = time.monotonic() + VISIBLE_AFTER_S
    while not (path.exists() and path.stat().st_size == size_bytes):
        if time.monotonic() > deadline:
            raise StorageError(
                errno.ENOENT,
                f"expected a file of {size_bytes} bytes that a worker has written, but it cannot "
                f"be seen on '{socket.gethostname()}'; see that the folder is the same one on all "
                f"machines",
                str(path),
            )
        with suppress(OSError):
            os.close(os.open(path.parent, os.O_RDONLY))  # has NFS look for new names
        time.sleep(LOOK_PERIOD_S)  # no file system on a network tells when it has news
