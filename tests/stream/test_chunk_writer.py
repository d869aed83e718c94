"""ChunkWriter: first error kept, lengths equal, nothing lost at the end."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import (
    ChunkWriter,
    Compression,
    DamagedFileError,
    DCWriteError,
    EventError,
    StorageError,
)
from dcwrite.store import encoder
from dcwrite.stream.chunk_writer import BatchEnd, WriterQueue

from .streams import RESULT_TIMEOUT_S, frame, message_has, read

SCALAR = np.arange(13.0)
IMAGE = np.arange(13 * 12, dtype=np.uint8).reshape(13, 3, 4)


def chunk_writer(path: Any, items: Any = (), **options: Any) -> ChunkWriter:
    dq = options.pop("dq", None)
    dq = collections.deque() if dq is None else dq
    dq.extend(items)
    size = multiprocessing.RawValue("L", 7)
    return ChunkWriter(path, dq, size, **{"threads": 1, **options})


def test_run_in_the_callers_thread(tmp_path: Path) -> None:
    writer = chunk_writer(tmp_path / "out.rtdc", [("deform", SCALAR), ("image", IMAGE)])
    writer.may_stop_loop = True
    writer.run()
    assert writer.write_queue_size.value == 0
    events = read(tmp_path / "out.rtdc")
    np.testing.assert_array_equal(events["deform"], SCALAR)
    np.testing.assert_array_equal(events["image"], IMAGE)


@pytest.mark.parametrize("queue_kind", [collections.deque, WriterQueue])
def test_fault06_append_then_finish_writes_all(queue_kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    for number in range(200):
        writer = chunk_writer(path, dq=queue_kind(), mode="w")
        writer.start()
        writer.dq.append(("deform", np.full(3, number)))
        writer.finished_when_queue_empty()
        writer.join(RESULT_TIMEOUT_S)
        assert not writer.is_alive()
        with h5py.File(path, "r") as h5:
            assert h5["events/deform"].shape == (3,), f"run {number}"


BAD_CHUNKS: dict[str, tuple[Any, tuple[object, ...]]] = {
    "fault01-shape": (
        ("image", np.zeros((13, 5, 4), np.uint8)), ("'image'", "(3, 4)", "(5, 4)", "event 13"),
    ),
    "fault12-broadcast": (
        ("image", np.zeros((13, 1, 4), np.uint8)), ("'image'", "(3, 4)", "(1, 4)"),
    ),
    "fault11-dtype": (("image", IMAGE.astype(int) + 300), ("'image'", "uint8", "300")),
    "fault11-mask": (("mask", IMAGE), ("'mask'", "0/255")),
    "no-array": (("deform", 3.0), ("'deform'", "first axis")),
    "no-pair": (5, ("(feature, data)", "5")),
    "bad-name": (("a/b/c", SCALAR), ("a/b/c",)),
}  # fmt: skip


@pytest.mark.parametrize(("item", "words"), BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
@pytest.mark.parametrize("started", [True, False], ids=["thread", "direct"])
def test_bad_chunk_leaves_equal_lengths(
    item: Any, words: tuple[object, ...], started: bool, tmp_path: Path
) -> None:
    path = tmp_path / "out.rtdc"
    good = [("deform", SCALAR), ("image", IMAGE)]
    writer = chunk_writer(path, [*good, ("deform", SCALAR), item, *good])
    writer.may_stop_loop = True
    if started:
        writer.start()
        threading.Thread.join(writer, RESULT_TIMEOUT_S)
        with pytest.raises(EventError):
            writer.check()
    with pytest.raises(EventError) as caught:
        writer.join() if started else writer.run()
    message_has(caught.value, *words)
    assert writer.error is caught.value
    assert writer.write_queue_size.value == 0
    assert not writer.dq
    events = read(path)
    np.testing.assert_array_equal(events["deform"], SCALAR)
    np.testing.assert_array_equal(events["image"], IMAGE)


def test_bad_chunk_in_a_batch_takes_the_whole_batch_back(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    batches: list[tuple[int, int]] = []
    good = [("deform", SCALAR), ("image", IMAGE), BatchEnd(13, 20)]
    bad = [("deform", SCALAR), ("image", IMAGE), ("image", IMAGE[:, :2]), BatchEnd(13, 20)]
    writer = chunk_writer(path, good + bad, on_batch=lambda *counts: batches.append(counts))
    with pytest.raises(EventError):
        writer.run()
    assert batches == [(13, 20)]
    assert {feat: len(data) for feat, data in read(path).items()} == {"deform": 13, "image": 13}


def test_an_error_never_takes_what_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("events/deform", data=np.arange(10.0), maxshape=(None,), chunks=(4,))
        h5.create_dataset("events/area_um", data=np.arange(7.0), maxshape=(None,), chunks=(4,))
    writer = chunk_writer(path, [("deform", SCALAR), ("area_um", ["a"])])
    with pytest.raises(EventError):
        writer.run()
    events = read(path)
    assert events["deform"][:10].tolist() == list(range(10))
    assert events["area_um"].tolist() == list(range(7))


@pytest.mark.parametrize("batches", [True, False])
def test_abort_loop_leaves_equal_lengths(batches: bool, tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"

    class StoppingQueue(collections.deque[Any]):
        """Asks the writer to stop while it takes the last but one item."""

        def popleft(self) -> Any:
            if len(self) == 2:
                writer.abort_loop()
            return super().popleft()

    items: list[Any] = [("deform", SCALAR), ("image", IMAGE), *[BatchEnd(13, 13)] * batches]
    writer = chunk_writer(path, items * 2 + items[-1:], dq=StoppingQueue())
    writer.start()
    writer.join(RESULT_TIMEOUT_S)
    assert writer.write_queue_size.value == 0
    lengths = {feat: len(data) for feat, data in read(path).items()}
    assert set(lengths.values()) <= {13, 26}
    assert len(set(lengths.values())) == 1


def test_abort_between_two_features(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    writer = chunk_writer(path, [("deform", SCALAR), ("image", IMAGE), ("deform", SCALAR)])
    store = writer.writer.store_feature_chunk

    def store_and_stop(feat: str, data: Any) -> None:
        store(feat, data)
        if writer.writer.lengths()["deform"] == 26:
            writer.abort_loop()

    writer.writer.store_feature_chunk = store_and_stop  # type: ignore[method-assign,assignment]
    writer.run()
    assert {feat: len(data) for feat, data in read(path).items()} == {"deform": 13, "image": 13}


def test_fault18_mode_w_with_a_text_as_path(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    path.write_bytes(b"old")
    kwds: dict[str, Any] = {}
    writer = chunk_writer(str(path), [("deform", SCALAR)], mode="w", ds_kwds=kwds)
    writer.may_stop_loop = True
    writer.run()
    assert kwds == {}
    assert read(path)["deform"].shape == (13,)


def test_an_open_file_stays_open(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "out.rtdc", "w") as h5:
        writer = chunk_writer(h5, [("deform", SCALAR)])
        writer.may_stop_loop = True
        writer.run()
        assert h5.id.valid
        np.testing.assert_array_equal(h5["events/deform"][:], SCALAR)


@pytest.mark.parametrize("name", ["no/out.rtdc", "text.rtdc"], ids=["no-folder", "no-hdf5"])
def test_fault04_a_path_that_cannot_be_opened_is_told_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.rtdc").write_text("not HDF5")
    with pytest.raises(DCWriteError) as caught:
        chunk_writer(tmp_path / name)
    assert isinstance(caught.value, (StorageError, DamagedFileError))
    assert isinstance(caught.value, OSError)
    assert (tmp_path / "text.rtdc").read_text() == "not HDF5"


def test_contours_and_traces_are_cut_with_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    contours = [np.arange(2 * (3 + ii)).reshape(-1, 2) for ii in range(3)]
    traces = {"fl1_raw": np.ones((3, 7), np.int16), "fl1_median": np.zeros((3, 7), np.int16)}
    good = [("contour", contours), ("trace", traces), ("deform", SCALAR[:3])]
    writer = chunk_writer(path, [*good, *good[:2], ("deform", SCALAR[:, None])])
    with pytest.raises(EventError):
        writer.run()
    events = read(path)
    assert sorted(events) == [
        "contour/0", "contour/1", "contour/2", "deform", "trace/fl1_median", "trace/fl1_raw",
    ]  # fmt: skip
    np.testing.assert_array_equal(events["contour/2"], contours[2])
    assert {len(events[feat]) for feat in events if "contour" not in feat} == {3}


def test_the_frame_of_the_helper_is_what_the_writer_writes(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    writer = chunk_writer(path, frame(3, 2).items(), scalar_attributes=True, event_count=True)
    writer.may_stop_loop = True
    writer.run()
    with h5py.File(path, "r") as h5:
        assert h5.attrs["experiment:event count"] == 2
        assert dict(h5["events/area_um"].attrs) == {"min": 30.0, "max": 31.0, "mean": 30.5}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_chunk_that_cannot_be_encoded_leaves_no_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Without a journal nobody else notices that rows are missing in the middle."""
    path = tmp_path / "out.rtdc"
    compress, n_called = encoder.compress, itertools.count()

    def failing(data: Any, level: int) -> bytes:
        if len(data) > 500_000 and next(n_called) == 2:
            raise MemoryError("as when there is none left")
        return compress(data, level)

    monkeypatch.setattr(encoder, "compress", failing)
    items: list[Any] = []
    for number in range(6):
        items.append(("image", np.full((50, 80, 320), number + 1, np.uint8)))
        items.append(("deform", np.full(50, number + 1.0)))
        items.append(BatchEnd(50, 50))
    writer = chunk_writer(
        path,
        items,
        compression=Compression(level=9),
        durability="none",
        threads=threads,
        on_batch=lambda *_: None,
    )
    writer.finished_when_queue_empty()
    writer.start()
    with pytest.raises(MemoryError):
        writer.join()
    assert not path.exists()
    assert path.with_name(path.name + ".part").exists()
