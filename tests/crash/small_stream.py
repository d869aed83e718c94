"""A small stream, and what has to be in its recording.

Alone here: the events. Invariant: the same specification gives the same events, each with values
that tell which it is.
"""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import dcwrite
from dcwrite.store import journal as journal_module
from dcwrite.stream.chunk_writer import BatchEnd, ChunkWriter, WriterQueue

__all__ = [
    "APPENDED_TO",
    "IN_PLACE",
    "Spec",
    "expected",
    "frames",
    "n_expected",
    "prepare",
    "run_stream",
]

#: Events that are there before those of a stream that appends.
APPENDED_TO = 150
#: Kinds that write into a file that has events, and not into a copy.
IN_PLACE = ("open", "open latest", "in place", "writer again")


@dataclass(frozen=True, slots=True)
class Spec:
    """A small stream, the same each time.

    Attributes
    ----------
    kind
        plain: scalars, image, mask; gzip: the same through HDF5's own filter; groups: with traces
        and contours; append: mode "a" behind 150 events that are there; writer: an
        HDF5Writer. Behind 150 events and without a copy: open and open latest: into a file that
        was passed open, of HDF5's old or new format; in place: with that option; writer again: an
        HDF5Writer.
    n_frames
        Of 0 to 3 events each.
    threshold
        Frames per batch.
    durability, sync_interval_s
        As for the writer.
    replace_bytes
        The journal is replaced when it has grown by this much.
    side
        Pixels of an image in each direction.
    live
        Whether HDF5's SWMR mode lets others read meanwhile.
    """

    kind: str = "plain"
    n_frames: int = 400
    threshold: int = 50
    durability: str = "process"
    sync_interval_s: float = 0.0
    replace_bytes: int = 64 * 1024**2
    side: int = 50
    live: bool = False


def frame(spec: Spec, index: int) -> dict[str, Any] | None:
    """Events of a frame; None: it has none. The last batch has none, either."""
    n_events = index % 4 if index < spec.n_frames - spec.threshold else 0
    if not n_events:
        return None
    rng = np.random.default_rng(index)
    image = np.repeat(
        rng.integers(90, 110, (1, spec.side, spec.side), dtype=np.uint8), n_events, 0
    )
    image[:, 0, 0] = np.arange(n_events)
    events: dict[str, Any] = {
        "deform": index + np.arange(n_events) / 8,
        "area_um": rng.random(n_events),
        "image": image,
        "mask": image > 100,
    }
    if spec.kind == "groups":
        events["trace"] = {
            name: rng.integers(0, 99, (n_events, 60), dtype=np.int16)
            for name in ("fl1_raw", "fl1_median")
        }
        events["contour"] = [
            rng.integers(0, 99, (3 + number % 3, 2), dtype=np.int32) for number in range(n_events)
        ]
    return events


@functools.lru_cache(maxsize=4)
def frames(spec: Spec) -> tuple[dict[str, Any] | None, ...]:
    """All frames."""
    return tuple(frame(spec, index) for index in range(spec.n_frames))


@functools.lru_cache(maxsize=4)
def expected(spec: Spec) -> dict[str, Any]:
    """What the recording holds in the end: feature to array, "contour" to a list."""
    found: dict[str, list[Any]] = {}
    for events in frames(spec):
        for feat, value in (events or {}).items():
            for name, data in value.items() if feat == "trace" else [(feat, value)]:
                full = f"trace/{name}" if feat == "trace" else name
                found.setdefault(full, []).append(data)
    result: dict[str, Any] = {}
    for feat, parts in found.items():
        if feat == "contour":
            result[feat] = [item for part in parts for item in part]
            continue
        result[feat] = np.concatenate(parts)
        if feat == "mask":
            result[feat] = result[feat] * np.uint8(255)
    if spec.kind not in {"append", "writer", *IN_PLACE}:
        counts = [len(events["deform"]) if events else 0 for events in frames(spec)]
        result["index_unmapped"] = np.repeat(np.arange(spec.n_frames, dtype=np.uint32), counts)
        result["nevents"] = np.repeat(np.asarray(counts), counts)
    if spec.kind in {"append", *IN_PLACE}:
        result = {
            feat: np.concatenate([data[:APPENDED_TO], data]) for feat, data in result.items()
        }
    return result


def n_expected(spec: Spec) -> int:
    """Number of events in the end."""
    return len(expected(spec)["deform"])


def prepare(spec: Spec, folder: Path) -> None:
    """What has to be there before the stream begins."""
    if spec.kind in {"append", *IN_PLACE}:
        with dcwrite.HDF5Writer(folder / "run.rtdc", mode="x", threads=1) as writer:
            for feat, data in expected(spec).items():
                writer.store_feature_chunk(feat, data[:APPENDED_TO])


def run_stream(spec: Spec, path: Path, told: Callable[[int], None]) -> None:
    """The stream; `told` hears `durable_events` as its user does."""
    journal_module.REPLACE_BYTES = spec.replace_bytes  # type: ignore[misc]
    if spec.kind == "writer":
        _run_writer(spec, path)
        return
    options: dict[str, Any] = {
        "durability": spec.durability,
        "sync_interval_s": spec.sync_interval_s,
        "threads": 1,
        "event_count": True,
        "live": spec.live,
    }
    kwds = {"compression": "gzip", "fletcher32": True} if spec.kind == "gzip" else None
    size = _Number()
    if spec.kind == "append":
        _run_append(spec, path, told, options)
        return
    if spec.kind.startswith("open"):
        # the file of somebody else, of the old format or of the new one
        with h5py.File(path, "a", libver="latest" if spec.kind == "open latest" else None) as h5:
            _run_append(spec, h5, told, options)
        return
    if spec.kind == "in place":
        _run_append(spec, path, told, {**options, "in_place": True})
        return
    if spec.kind == "writer again":
        _run_writer(spec, path, mode="a")
        return
    items: queue.Queue[Any] = queue.Queue()
    for index, events in enumerate(frames(spec)):
        if events:
            items.put((index, events))

    class Told(dcwrite.QueueWriterThread):
        def _count_durable(self, n_events: int) -> None:
            super()._count_durable(n_events)
            told(n_events)

    counts = [len(events["deform"]) if events else 0 for events in frames(spec)]
    writer = Told(items, size, counts, path, kwds, write_threshold=spec.threshold, **options)
    writer.start()
    writer.join()


class _Number:
    value = 0


def _run_append(
    spec: Spec, path: Path | h5py.File, told: Callable[[int], None], options: Any
) -> None:
    dq = WriterQueue()
    writer = ChunkWriter(path, dq, _Number(), mode="a", on_durable=told, daemon=True, **options)
    writer.start()
    for first in range(0, spec.n_frames, spec.threshold):
        batch = [events for events in frames(spec)[first : first + spec.threshold] if events]
        for feat in batch[0] if batch else ():
            dq.append((feat, np.concatenate([events[feat] for events in batch])))
        n_events = sum(len(events["deform"]) for events in batch)
        dq.append(BatchEnd(n_events, spec.threshold))
    writer.finished_when_queue_empty()
    writer.join()


def _run_writer(spec: Spec, path: Path, mode: str = "x") -> None:
    with dcwrite.HDF5Writer(path, mode=mode, threads=1) as writer:
        for first in range(0, spec.n_frames, spec.threshold):
            batch = [events for events in frames(spec)[first : first + spec.threshold] if events]
            for feat in batch[0] if batch else ():
                writer.store_feature_chunk(feat, np.concatenate([e[feat] for e in batch]))
            writer.flush()
