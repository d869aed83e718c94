"""Any order gives the same file: of frames that arrive, of rows that a mapping names."""

from __future__ import annotations

import collections
import multiprocessing
import queue
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcwrite
from dcwrite.store import rows as rows_module

SPAWN = multiprocessing.get_context("spawn")


# frames


class Script:
    """A queue on which things happen in a given order, without a second thread.

    ("count", frame): the number of events of a frame becomes known. ("item", frame): its events
    arrive. ("nothing", 0): the reader finds the queue empty.
    """

    def __init__(
        self, actions: Sequence[tuple[str, int]], counts: Sequence[int], frames: Sequence[Any]
    ) -> None:
        self.actions = collections.deque(actions)
        self.counts = counts
        self.frames = frames
        self.feat_nevents = np.full(len(counts), -1, dtype=np.int32)

    def get(self, timeout: float) -> tuple[int, Any]:
        while self.actions:
            action, frame = self.actions.popleft()
            if action == "item":
                return frame, self.frames[frame]
            if action == "nothing":
                break
            self.feat_nevents[frame] = self.counts[frame]
        raise queue.Empty


def frame_events(frame: int, n_events: int, scalar_dtype: str, mask_form: str) -> dict[str, Any]:
    """Events of one frame; dtypes may differ between frames, all values fit all of them."""
    rng = np.random.default_rng(frame)
    mask = rng.random((n_events, 4, 5)) > 0.5
    factor = {"bool": None, "0/1": np.uint8(1), "0/255": np.uint8(255)}[mask_form]
    return {
        "deform": rng.integers(0, 100, n_events).astype(scalar_dtype),
        "time": rng.random(n_events),
        "image": rng.integers(0, 255, (n_events, 4, 5), dtype=np.uint8),
        "mask": mask if factor is None else mask * factor,
        "trace": {"fl1_raw": rng.integers(-9, 9, (n_events, 6)).astype(np.int16)},
        "contour": [rng.integers(0, 9, (rng.integers(0, 4), 2)) for _ in range(n_events)],
    }


def assert_holds(path: Path, frames: Sequence[Any], counts: Sequence[int]) -> None:
    """Compare with the frames in their order, put together by numpy."""
    found = [events for events, n_events in zip(frames, counts, strict=True) if n_events]
    numbers = np.repeat(np.arange(len(counts)), counts)
    expected: dict[str, np.ndarray] = {
        "index_unmapped": numbers.astype(np.uint32),
        "nevents": np.asarray(counts, dtype=np.int32)[numbers],
    }
    if found:
        dtype = found[0]["deform"].dtype  # the first frame's, not that of the first to arrive
        expected["deform"] = np.concatenate([e["deform"] for e in found]).astype(dtype)
        for feat in ("time", "image"):
            expected[feat] = np.concatenate([e[feat] for e in found])
        inside = np.concatenate([e["mask"] > 0 for e in found])
        expected["mask"] = inside * np.uint8(255)
        expected["trace/fl1_raw"] = np.concatenate([e["trace"]["fl1_raw"] for e in found])
        contours = [item for e in found for item in e["contour"]]
        expected.update({f"contour/{n}": item for n, item in enumerate(contours)})
    with h5py.File(path) as h5:
        names: list[str] = []
        h5["events"].visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        assert sorted(names) == sorted(expected)
        for name, rows in expected.items():
            assert h5["events"][name].dtype == rows.dtype, name
            np.testing.assert_array_equal(h5["events"][name], rows, err_msg=name)


@settings(max_examples=40)
@given(
    data=st.data(),
    counts=st.lists(st.sampled_from([0, 0, 1, 2, 7]), min_size=1, max_size=25),
    write_threshold=st.integers(1, 30),
    ds_kwds=st.sampled_from([None, {"compression": "gzip"}]),
    own_queue=st.booleans(),
)
def test_any_order_gives_the_same_file(
    data: st.DataObject,
    counts: list[int],
    write_threshold: int,
    ds_kwds: dict[str, Any] | None,
    own_queue: bool,
) -> None:
    n_frames = len(counts)
    frames = [
        frame_events(
            frame,
            n_events,
            data.draw(st.sampled_from(["float64", "float32", "int16", "uint8"])),
            data.draw(st.sampled_from(["bool", "0/1", "0/255"])),
        )
        if n_events
        else data.draw(st.sampled_from([None, {}]))
        for frame, n_events in enumerate(counts)
    ]
    # each frame's events after its count; what is not moved behind the end is in the buffer
    moments = data.draw(st.permutations(range(3 * n_frames)))
    when = {frame: sorted(moments[2 * frame : 2 * frame + 2]) for frame in range(n_frames)}
    timed = [(moment, "nothing", 0) for moment in moments[2 * n_frames :]]
    for frame, (first, second) in when.items():
        timed += [(first, "count", frame), (second, "item", frame)]
    n_buffered = data.draw(st.integers(0, n_frames))
    script = Script([(action, frame) for _, action, frame in sorted(timed)], counts, frames)
    buffered: collections.deque[Any] = collections.deque()
    while len(buffered) < n_buffered:
        try:
            buffered.append(script.get(timeout=0))
        except queue.Empty:
            continue
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.rtdc"
        writer = dcwrite.QueueWriterThread(
            script,
            SPAWN.Value("L", 0),
            script.feat_nevents,
            path,
            ds_kwds,
            write_threshold,
            threads=1,
        )
        writer.run(buffer_dq=buffered, writer_dq=collections.deque() if own_queue else None)
        assert not buffered
        assert writer.written_events.value == sum(counts)
        assert writer.written_frames.value == n_frames
        assert_holds(path, frames, counts)


# rows

ZSTD = {"compression": hdf5plugin.Zstd.filter_id, "compression_opts": (5,), "fletcher32": True}
STORAGE: dict[str, dict[str, Any]] = {
    "zstd": ZSTD,
    "gzip": {"compression": "gzip"},
    "checksum": {"fletcher32": True},
    "plain": {},
}
N_SOURCE = 23


def source_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {
        "deform": rng.random(N_SOURCE),
        "frame": np.arange(N_SOURCE, dtype=np.uint64),
        "image": rng.integers(0, 255, (N_SOURCE, 4, 5), dtype=np.uint8),
        "mask": rng.integers(0, 2, (N_SOURCE, 4, 5), dtype=np.uint8) * np.uint8(255),
        "userdef1": rng.random((N_SOURCE, 2, 2, 2)),
        "trace/fl1_raw": rng.integers(-9, 9, (N_SOURCE, 6)).astype(np.int16),
        "trace/fl2_median": rng.integers(-9, 9, (N_SOURCE, 6)).astype(np.int16),
    }


def source_contours() -> list[np.ndarray]:
    return [np.arange(2 * (number % 4)).reshape(-1, 2) + number for number in range(N_SOURCE)]


def write_source(path: Path, chunk_events: int | None, storage: dict[str, Any]) -> None:
    """By plain h5py; without chunks where none are asked for."""
    with h5py.File(path, "w") as h5:
        for name, rows in source_arrays().items():
            chunked: dict[str, Any] = {}
            if chunk_events is not None:
                chunked = {"chunks": (chunk_events, *rows.shape[1:]), **storage}
                chunked["maxshape"] = (None, *rows.shape[1:])
            h5.create_dataset(f"events/{name}", data=rows, **chunked)
        for number, item in enumerate(source_contours()):
            h5[f"events/contour/{number}"] = item


def assert_copied(path: Path, mapping: np.ndarray) -> None:
    with h5py.File(path) as h5:
        for name, rows in source_arrays().items():
            dset = h5["events"][name]
            assert dset.dtype == rows.dtype, name
            np.testing.assert_array_equal(dset[:], rows[mapping], err_msg=name)
        contours = source_contours()
        assert len(h5["events/contour"]) == len(mapping)
        for number, index in enumerate(mapping):
            np.testing.assert_array_equal(h5[f"events/contour/{number}"], contours[index])


FEATURES = ["deform", "frame", "image", "mask", "userdef1", "trace", "contour"]
INDICES = st.integers(0, N_SOURCE - 1)
MAPPINGS = st.one_of(
    st.lists(INDICES, max_size=60),
    st.lists(INDICES, max_size=60).map(sorted),
    st.permutations(range(N_SOURCE)),
    st.builds(list, st.builds(range, INDICES, st.integers(0, N_SOURCE))),
)


@settings(max_examples=60)
@given(
    mapping=MAPPINGS,
    dtype=st.sampled_from(["int64", "uint32", "uint8"]),
    # smaller than the data, as large, larger; None: contiguous
    chunk_events=st.sampled_from([1, 4, 22, 23, 50, None]),
    storage=st.sampled_from(sorted(STORAGE)),
    block_bytes=st.sampled_from([1, 1000, 64 * 1024**2]),
    threads=st.sampled_from([1, 2]),
)
def test_mapped_copy_is_numpy_indexing(
    mapping: list[int],
    dtype: str,
    chunk_events: int | None,
    storage: str,
    block_bytes: int,
    threads: int,
) -> None:
    indices = np.array(mapping, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # so that a few rows take several rounds
        patch.setattr(rows_module, "SORTED_BLOCK_BYTES", block_bytes)
        patch.setattr(rows_module, "UNSORTED_BLOCK_BYTES", block_bytes)
        source, path = Path(folder) / "source.rtdc", Path(folder) / "x.rtdc"
        write_source(source, chunk_events, STORAGE[storage])
        with h5py.File(source) as h5_src, h5py.File(path, "w") as h5_dst:
            h5_dst.attrs["experiment:event count"] = N_SOURCE
            dcwrite.copy_features(h5_src, h5_dst, FEATURES, mapping=indices, threads=threads)
            # a second time: all is there, and equal
            dcwrite.copy_features(h5_src, h5_dst, FEATURES, mapping=indices, threads=threads)
            assert h5_dst.attrs["experiment:event count"] == len(indices)
        assert_copied(path, indices.astype(int))


@pytest.mark.parametrize(
    "mapping",
    [[0, -1], [N_SOURCE], [0.0, 1.0], [[0, 1]], [True, False]],
    ids=["negative", "beyond", "float", "two-dimensional", "bool"],
)
def test_mapping_that_does_not_fit(tmp_path: Path, mapping: list[Any]) -> None:
    write_source(tmp_path / "source.rtdc", 4, ZSTD)
    with h5py.File(tmp_path / "source.rtdc") as h5_src, h5py.File(tmp_path / "x", "w") as h5_dst:
        with pytest.raises(dcwrite.DataError, match="expected"):
            dcwrite.copy_features(h5_src, h5_dst, FEATURES, mapping=np.array(mapping))
        assert len(h5_dst["events"]) == 0
