"""Replay: a recording once more through worker processes and a queue writer.

Alone here: what a frame of a stored recording is, and what has to be carried over beside the
events. Invariant: the output holds what the input holds (see `compare`), or does not appear.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedFeatureError
from ..store.basins import copy_basins
from ..store.copying import copy_metadata
from ..store.recording import Contours, Recording
from ..store.whole_file import refuse_same_file, whole_file
from ..store.writer import HDF5Writer
from .demo import default_workers, require_workers
from .origins import open_input
from .progress import Clock, Report
from .workers import Frames, write_frames

__all__ = ["ReplaySummary", "frame_starts", "replay"]

#: Bytes of events that a worker reads at a time.
BLOCK_BYTES: Final = 8 * 1024**2
#: Bytes of events that are written at a time, and that may be ahead of what is written.
BATCH_BYTES: Final = 16 * 1024**2
AHEAD_BYTES: Final = 128 * 1024**2
#: Most frames per block: smaller blocks spread over the workers.
MAX_FRAMES_PER_BLOCK: Final = 32
MAX_FRAMES_PER_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What a replay did.

    Attributes
    ----------
    path_in, path_out
        The recordings.
    n_events, n_frames, n_features
        What was carried over.
    n_workers
        Number of worker processes.
    raw_bytes
        Size of the features in memory.
    stored_bytes_in, stored_bytes_out
        Sizes of the files.
    elapsed_s
        Wall time.
    """

    path_in: Path
    path_out: Path
    n_events: int
    n_frames: int
    n_features: int
    n_workers: int
    raw_bytes: int
    stored_bytes_in: int
    stored_bytes_out: int
    elapsed_s: float


def frame_starts(frame: npt.ArrayLike | None, n_events: int) -> npt.NDArray[np.int64]:
    """First event of each frame, and the number of events at the end.

    Parameters
    ----------
    frame
        Feature "frame", shape (n_events,); None: there is none.
    n_events
        Number of events.

    Returns
    -------
    ndarray, shape (frames + 1,)
        Consecutive events with the same value of `frame` form a frame; where it is missing or
        decreases, each event is one.
    """
    if frame is not None:
        # compared, not subtracted: differences of unsigned integers wrap
        values = np.asarray(frame)
        if np.all(values[1:] >= values[:-1]):
            first = np.flatnonzero(values[1:] != values[:-1]) + 1
            head = [0] if n_events else []
            return np.concatenate([head, first, [n_events]]).astype(np.int64)
    return np.arange(n_events + 1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _RecordedFrames:
    """Frames of a stored recording, which every worker process opens for itself."""

    path: Path
    starts: npt.NDArray[np.int64]

    def deliver(self, blocks: Iterable[Frames]) -> Iterator[tuple[int, Mapping[str, Any] | None]]:
        with Recording(self.path) as recording:
            features = _flat_features(recording)
            for block in blocks:
                first = int(self.starts[block.min()])
                stop = int(self.starts[block.max() + 1])
                events = {name: feature[first:stop] for name, feature in features.items()}
                for frame in block.tolist():
                    rows = slice(self.starts[frame] - first, self.starts[frame + 1] - first)
                    yield frame, {name: data[rows] for name, data in events.items()}


def _flat_features(recording: Recording) -> dict[str, Any]:
    """The recording's own features, one entry per trace, mappings of basins included."""
    features: dict[str, Any] = {}
    for name in recording.own_features:
        item = recording[name]
        if isinstance(item, dict):
            if name != "trace":
                raise UnsupportedFeatureError(
                    f"'{recording.path}', feature '{name}': expected a dataset, or one of the "
                    f"groups 'trace' and 'contour', got another group; remove it from the file"
                )
            features.update({f"{name}/{key}": value for key, value in item.items()})
        else:
            features[name] = item
    return features


def replay(
    path_in: str | os.PathLike[str],
    path_out: str | os.PathLike[str],
    *,
    workers: int | None = 2,
    seed: int | None = None,
    overwrite: bool = False,
    progress: Report | None = None,
) -> ReplaySummary:
    """Send a recording through worker processes, out of order, into a new recording.

    Features (with their attributes), metadata, logs, tables and basins of the output equal those
    of the input; masks are stored as 0 and 255, and everything is compressed anew.

    Parameters
    ----------
    path_in
        The recording.
    path_out
        The new recording; it appears when it is complete.
    workers
        Number of worker processes; None: by the number of cores.
    seed
        Of the order in which frames are delivered; None: a different one each time.
    overwrite
        Whether to replace an existing file.
    progress
        Takes records of progress; the stage is "replaying" [events].

    Raises
    ------
    RecordingError
        The input is inconsistent; nothing was written.
    UnsupportedFeatureError
        The input has a group as a feature that is not known; nothing was written.
    UsageError
        Input and output are the same file.
    StorageError, DamagedFileError
        The input cannot be read, the output exists, or the disk refuses.
    """
    path_in, path_out = Path(path_in), Path(path_out)
    n_workers = default_workers() if workers is None else workers
    require_workers(n_workers)
    with open_input(path_in) as recording:
        recording.check_consistent()
        refuse_same_file(path_out, [path_in])
        features = _flat_features(recording)
        n_events = max(recording.lengths().values(), default=0)  # 0: all data are in basins
        frame = features.get("frame")
        starts = frame_starts(None if frame is None else frame[:], n_events)
        n_frames = len(starts) - 1
        raw_bytes = sum(map(_raw_bytes, features.values()))
        frame_bytes = max(1, raw_bytes // max(1, n_frames))
        size = path_in.stat().st_size
        with whole_file(path_out, overwrite=overwrite, expected_bytes=size) as temporary:
            clock = Clock("replaying", n_events, "events", progress)
            write_frames(
                temporary,
                _RecordedFrames(path_in, starts),
                _deal(n_frames, n_workers, frame_bytes, seed),
                n_frames,
                clock=clock,
                frames_per_batch=_at_most(MAX_FRAMES_PER_BATCH, BATCH_BYTES, frame_bytes),
                frames_ahead=AHEAD_BYTES // frame_bytes,
                frame_info=False,
                in_place=True,  # an unfinished replay is not worth rescuing
                stream_log=False,
            )
            with HDF5Writer(temporary, mode="r+") as writer:
                _carry_over(recording, features, writer)
        return ReplaySummary(
            path_in=path_in,
            path_out=path_out,
            n_events=n_events,
            n_frames=n_frames,
            n_features=len(recording.own_features),
            n_workers=n_workers,
            raw_bytes=raw_bytes,
            stored_bytes_in=path_in.stat().st_size,
            stored_bytes_out=path_out.stat().st_size,
            elapsed_s=clock.elapsed_s,
        )


def _raw_bytes(feature: Any) -> int:
    """Size of a feature in memory; contours: as if all were like the first."""
    if isinstance(feature, Contours):
        return len(feature) * int(feature[0].nbytes) if len(feature) else 0
    return int(np.prod(feature.shape, dtype=object)) * int(feature.dtype.itemsize)


def _at_most(n_most: int, n_bytes: int, item_bytes: int) -> int:
    """How many items fit into so many bytes; at least one."""
    return max(1, min(n_most, n_bytes // item_bytes))


def _deal(n_frames: int, workers: int, frame_bytes: int, seed: int | None) -> list[list[Frames]]:
    """Blocks of neighbouring frames for random workers, the frames of each in random order."""
    rng = np.random.default_rng(seed)
    most = min(MAX_FRAMES_PER_BLOCK, -(-n_frames // workers))
    size = _at_most(max(1, most), BLOCK_BYTES, frame_bytes)
    blocks = [
        rng.permutation(np.arange(start, min(start + size, n_frames)))
        for start in range(0, n_frames, size)
    ]
    # each round of blocks goes to the workers in a random order: all of them get their share
    work: list[list[Frames]] = [[] for _ in range(workers)]
    for start in range(0, len(blocks), workers):
        batch = blocks[start : start + workers]
        for worker, block in zip(rng.permutation(workers), batch, strict=False):
            work[worker].append(block)
    return work


def _carry_over(recording: Recording, features: Mapping[str, Any], writer: HDF5Writer) -> None:
    """Everything but the events: empty features, attributes, metadata, logs, tables, basins."""
    source, target = recording.h5["events"], writer.events
    for name, feature in features.items():
        if name in target:
            continue  # the events brought it
        if isinstance(feature, Contours):
            writer.store_feature_chunk(name, [])
        else:
            dtype = np.dtype(np.uint8) if name == "mask" else feature.dtype
            writer.require_feature(name, feature.shape[1:], dtype)
    if "trace" in recording.own_features:
        target.require_group("trace")
    for name in ["/events", *(f"/events/{name}" for name in ("trace", *features))]:
        if name in recording.h5:
            _copy_attributes(recording.h5[name], writer.h5[name])
    if "contour" in source:
        for number in source["contour"]:
            _copy_attributes(source["contour"][number], target["contour"][number])
    copy_metadata(recording.h5, writer.h5, keep_empty=True)
    copy_basins(recording.h5, writer.h5)


def _copy_attributes(source: Any, target: Any) -> None:
    """The attributes of the source, and no others."""
    for key in set(target.attrs) - set(source.attrs):
        del target.attrs[key]
    for key, value in source.attrs.items():
        target.attrs[key] = value
