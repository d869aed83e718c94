"""QueueWriterThread beside dcnum's: the same queue items give equal files."""

from __future__ import annotations

import multiprocessing
import queue
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcwrite
from dcwrite.simulate import scrambled_frames
from tests.peer.judge import PEER_REASON, assert_same_content, recording

dcnum_write = pytest.importorskip("dcnum.write", reason=PEER_REASON)

pytestmark = pytest.mark.peer

SPAWN = multiprocessing.get_context("spawn")


class EventQueue(queue.SimpleQueue[Any]):
    """A queue of this process with the method that dcnum calls."""

    def cancel_join_thread(self) -> None:
        """There is no thread."""


def frame_events(frame: int, n_events: int, features: Sequence[str]) -> dict[str, Any]:
    rng = np.random.default_rng([frame, n_events])
    arrays = {
        "deform": rng.random(n_events),
        "area_um": rng.random(n_events).astype(np.float32),
        "frame": np.full(n_events, frame, dtype=np.uint64),
        "fl1_max": rng.integers(0, 9, n_events, dtype=np.uint32),
        "userdef1": rng.integers(0, 2, n_events).astype(bool),
        "image": rng.integers(0, 255, (n_events, 90, 120), dtype=np.uint8),
        "mask": rng.random((n_events, 90, 120)) > 0.5,
    }
    return {feat: arrays[feat] for feat in features}


ALL_FEATURES = ("deform", "area_um", "frame", "fl1_max", "userdef1", "image", "mask")


def write(
    module: Any,
    path: Path,
    items: Sequence[tuple[int, Any]],
    feat_nevents: Any,
    **options: Any,
) -> tuple[int, int]:
    """Run a writer here; events and frames that it counted."""
    events = EventQueue()
    for item in items:
        events.put(item)
    size = SPAWN.Value("L", 0)
    writer = module.QueueWriterThread(
        event_queue=events,
        write_queue_size=size,
        feat_nevents=feat_nevents,
        path_out=path,
        **options,
    )
    writer.run()
    assert size.value == 0
    return writer.written_events.value, writer.written_frames.value


def assert_same_stream(
    folder: Path, items: Sequence[tuple[int, Any]], feat_nevents: Any, **options: Any
) -> None:
    counted = [
        write(module, folder / name, items, feat_nevents, **options)
        for module, name in ((dcwrite, "ours.rtdc"), (dcnum_write, "theirs.rtdc"))
    ]
    assert counted[0] == counted[1] == (int(np.sum(feat_nevents)), len(feat_nevents))
    # dcwrite says in a log how the stream ended
    assert_same_content(folder / "ours.rtdc", folder / "theirs.rtdc", ignored_groups=["logs"])
    with h5py.File(folder / "ours.rtdc") as h5:
        assert list(h5["logs"]) == ["dcwrite-stream"]


COUNTS = {
    "one-frame": [3],
    "no-frames": [],
    "no-events": [0, 0, 0, 0, 0],
    "no-events-at-first": [0] * 12 + [1, 2],
    "no-events-at-the-end": [2, 1] + [0] * 12,
    "many": [1, 0, 2, 0, 0, 3, 1] * 30,
    "crowded": [97, 0, 98],
}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("write_threshold", [1, 10, 500])
def test_stream(tmp_path: Path, counts: list[int], write_threshold: int) -> None:
    if len(counts) > 100 and write_threshold == 1:
        write_threshold = 7
    items = [
        (frame, frame_events(frame, n, ALL_FEATURES) if n else None)
        for frame, n in reversed(list(enumerate(counts)))
    ]
    feat_nevents = np.array(counts, dtype=np.int32)
    assert_same_stream(tmp_path, items, feat_nevents, write_threshold=write_threshold)


@pytest.mark.parametrize("kind", ["list", "int64", "int32", "uint16", "shared"])
def test_kinds_of_counts(tmp_path: Path, kind: str) -> None:
    """The dtype of `nevents` is that of the counts."""
    counts: Any = [2, 0, 1, 3]
    if kind == "shared":
        counts = SPAWN.Array("i", counts)
    elif kind != "list":
        counts = np.array(counts, dtype=kind)
    items = [(f, frame_events(f, n, ["deform"]) if n else None) for f, n in enumerate(counts)]
    assert_same_stream(tmp_path, items, counts, write_threshold=3)


@pytest.mark.parametrize("ds_kwds", [{"compression": "gzip"}, {"compression": None}])
def test_dataset_arguments(tmp_path: Path, ds_kwds: dict[str, Any]) -> None:
    counts = [40, 0, 50, 60]
    items = [(f, frame_events(f, n, ALL_FEATURES) if n else None) for f, n in enumerate(counts)]
    assert_same_stream(
        tmp_path, items, np.array(counts), write_threshold=2, hdf5_dataset_kwargs=dict(ds_kwds)
    )


def test_simulated_recording_from_many_workers(tmp_path: Path) -> None:
    """48 scalars and three images, in the order in which a pool of workers delivers."""
    simulated = recording()
    workers = scrambled_frames(len(simulated), 4, seed=1)
    order = [frame for batch in zip(*workers, strict=False) for frame in batch]
    order += sorted(set(range(len(simulated))) - set(order))
    items = [(frame, simulated.frame_events(frame)) for frame in order]
    assert_same_stream(tmp_path, items, simulated.nevents(), write_threshold=50)
    with h5py.File(tmp_path / "ours.rtdc") as h5:
        counts = simulated.nevents()
        frames = np.repeat(np.arange(len(counts)), counts)
        assert h5["events/index_unmapped"].dtype == np.uint32
        assert np.array_equal(h5["events/index_unmapped"], frames)
        assert np.array_equal(h5["events/frame"], frames)
        assert np.array_equal(h5["events/nevents"], counts[frames])


# few examples: dcnum waits 0.1 s at the end of each file
@settings(max_examples=12)
@given(
    data=st.data(),
    counts=st.lists(st.sampled_from([0, 0, 1, 2, 30]), min_size=1, max_size=40),
    write_threshold=st.integers(1, 45),
    features=st.lists(st.sampled_from(ALL_FEATURES), min_size=1, unique=True),
)
def test_any_stream(
    data: st.DataObject, counts: list[int], write_threshold: int, features: list[str]
) -> None:
    order = data.draw(st.permutations(range(len(counts))))
    items = [(f, frame_events(f, counts[f], features) if counts[f] else None) for f in order]
    with tempfile.TemporaryDirectory() as folder:
        assert_same_stream(
            Path(folder), items, np.array(counts, np.int32), write_threshold=write_threshold
        )
