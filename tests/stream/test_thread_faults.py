"""QueueWriterThread: what does not fit is an error that is told, and what came before is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dcwrite
from dcwrite import AbortedError, EventError, StallError, StorageError, UsageError
from dcwrite.simulate import scrambled_frames

from .streams import (
    RESULT_TIMEOUT_S,
    TellingQueue,
    assert_frames,
    counts_of,
    ended,
    frame,
    message_has,
    read,
    thread_for,
)

#: frames in all cases: frame 3 is the one at fault
COUNTS = (1, 2, 1, 1, 1)
IMAGE_1_4 = np.zeros((1, 1, 4), np.uint8)
LABELS = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)

#: id -> item at fault, changed counts, frames that are then in the file, words of the message
BAD_ITEMS: dict[str, tuple[Any, Sequence[int], int, tuple[object, ...]]] = {
    "fault01-shape": (
        (3, frame(3, image=np.zeros((1, 5, 4), np.uint8))), COUNTS, 3,
        ("frame 3", "'image'", "(3, 4)", "(5, 4)"),
    ),
    "fault09-missing-feature": (
        (3, frame(3, area_um=None)), COUNTS, 3, ("frame 3", "frame 0", "missing", "area_um"),
    ),
    "fault09-extra-feature": (
        (3, frame(3, bright_avg=np.zeros(1))), COUNTS, 3,
        ("frame 3", "frame 0", "unexpected", "bright_avg"),
    ),
    "fault09-fewer-events": (
        (3, frame(3, 1)), (1, 2, 1, 2, 1), 3, ("frame 3", "'deform'", "2 events", "got 1"),
    ),
    "fault09-more-events": (
        (3, frame(3, 2)), COUNTS, 3, ("frame 3", "'deform'", "1 events", "got 2"),
    ),
    "fault09-uneven": (
        (3, frame(3, area_um=np.zeros(3))), COUNTS, 3,
        ("frame 3", "'area_um'", "1 events", "got 3"),
    ),
    "fault09-none": ((3, None), COUNTS, 3, ("frame 3", "1 events", "got none")),
    "fault09-no-features": ((3, {}), COUNTS, 3, ("frame 3", "1 events", "got none")),
    "fault09-unannounced": (
        (3, frame(3)), (1, 2, 1, 0, 1), 4, ("frame 3", "'deform'", "0 events", "got 1"),
    ),
    "fault10-negative": ((-1, frame(3)), COUNTS, 3, ("frame -1", "from 0 to 4", "got -1")),
    "fault10-too-large": ((5, frame(3)), COUNTS, 3, ("frame 5", "from 0 to 4", "got 5")),
    "fault10-repeated-after-writing": ((1, frame(1, 2)), COUNTS, 3, ("frame 1", "once", "again")),
    "fault10-repeated-in-batch": ((2, frame(2)), COUNTS, 3, ("frame 2", "once", "again")),
    "fault10-fraction": ((2.5, frame(3)), COUNTS, 3, ("(frame_index, events)", "2.5")),
    "fault10-no-item": ("stop", COUNTS, 3, ("(frame_index, events)", "stop")),
    "fault11-labelled-mask": (
        (3, frame(3, mask=LABELS)), COUNTS, 3, ("frame 3", "'mask'", "0/255", "0 to 11"),
    ),
    "fault12-broadcast": (
        (3, frame(3, image=IMAGE_1_4)), COUNTS, 3, ("frame 3", "'image'", "(3, 4)", "(1, 4)"),
    ),
    "no-array": ((3, frame(3, deform=["a"])), COUNTS, 3, ("frame 3", "'deform'", "<U1")),
    "ragged": ((3, frame(3, deform=[[1], [1, 2]])), COUNTS, 3, ("frame 3", "'deform'")),
    "no-dict": ((3, [1, 2]), COUNTS, 3, ("frame 3", "dict", "list")),
    "trace-without-names": (
        (3, frame(3, trace=np.zeros((1, 9)))), COUNTS, 3, ("frame 3", "'trace'", "ndarray"),
    ),
    "reserved-feature": (
        (3, frame(3, nevents=np.ones(1))), COUNTS, 3, ("frame 3", "nevents", "frame_info"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("item", "counts", "n_frames", "words"), BAD_ITEMS.values(), ids=BAD_ITEMS.keys()
)
def test_bad_item(
    item: Any, counts: Sequence[int], n_frames: int, words: tuple[object, ...], tmp_path: Path
) -> None:
    path = tmp_path / "out.rtdc"
    items = [(0, frame(0)), (1, frame(1, 2)), (2, frame(2)), item, (4, frame(4))]
    writer = ended(thread_for(path, items, counts_of(*counts)))
    with pytest.raises(EventError) as caught:
        _ = writer.written_frames.value
    message_has(caught.value, *words)
    with pytest.raises(EventError):
        _ = writer.written_events.value
    with pytest.raises(EventError):
        writer.join()
    assert writer.error is caught.value
    assert writer.write_queue_size.value == 0
    assert writer.written_frames.peek() == n_frames
    assert_frames(path, counts, n_frames)


@pytest.mark.parametrize("repeated", [frame(3), None], ids=["events", "none"])
def test_fault10_repeated_frame_that_waits_for_its_batch(repeated: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    items = [(3, frame(3)), (3, repeated), (0, frame(0)), (1, frame(1))]
    with pytest.raises(EventError, match="frame 3: expected each frame once"):
        thread_for(path, items, counts_of(1, 1, 1, 1)).run()


def test_fault10_repeated_frame_after_the_last(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    items = [(0, frame(0)), (1, frame(1)), (0, frame(0))]
    with pytest.raises(EventError, match="frame 0: expected each frame once"):
        thread_for(path, items, counts_of(1, 1)).run()
    assert_frames(path, (1, 1), 2)


def test_fault09_empty_arrays_of_a_frame_without_events_may_come_late(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    items = [(0, frame(0)), (2, frame(2)), (1, frame(1, 0)), (3, frame(3, 0)), (1, None)]
    thread_for(path, items, counts_of(1, 0, 1, 0), write_threshold=1).run()
    assert_frames(path, (1, 0, 1, 0), 4)


def test_fault09_late_feature_in_a_later_batch(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    items = [(ii, frame(ii, **({"tilt": np.ones(1)} if ii > 3 else {}))) for ii in range(8)]
    with pytest.raises(EventError) as caught:
        thread_for(path, items, counts_of(*[1] * 8)).run()
    message_has(caught.value, "frame 4", "unexpected", "tilt")
    assert_frames(path, [1] * 8, 4)


WRONG_DTYPES = {
    "fault11-fraction-into-int": (np.int64, 2.9, np.float64),
    "fault11-300-into-uint8": (np.uint8, 300, np.int64),
    "fault11-negative-into-uint8": (np.uint8, -7, np.int16),
}


@pytest.mark.parametrize("at", [1, 2, 3], ids=["first-batch", "batch-start", "batch-end"])
@pytest.mark.parametrize(
    ("dtype", "value", "value_dtype"), WRONG_DTYPES.values(), ids=WRONG_DTYPES.keys()
)
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (1, 0, 3, 2, 4)], ids=["sorted", "swapped"])
def test_dtype_that_would_lose_values(
    dtype: Any, value: float, value_dtype: Any, at: int, order: Sequence[int], tmp_path: Path
) -> None:
    path = tmp_path / "out.rtdc"
    rows = {ii: np.full(1, ii, dtype) for ii in range(5)}
    rows[at] = np.full(1, value, value_dtype)
    items = [(ii, frame(ii, bright_avg=rows[ii])) for ii in order]
    writer = thread_for(path, items, counts_of(1, 1, 1, 1, 1), frame_info=False)
    with pytest.raises(EventError) as caught:
        writer.run()
    message_has(caught.value, f"frame {at}", "'bright_avg'", np.dtype(dtype), value)
    events = read(path)
    # all before the one at fault, also if they were put after it
    assert events["bright_avg"].tolist() == list(range(at))
    assert events["bright_avg"].dtype == dtype
    assert {len(data) for data in events.values()} == {at}


def test_fault11_values_that_fit_are_taken_in_the_dtype_of_the_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    dtypes = [np.float64, np.int32, np.uint8, np.float32, np.int64]
    items = [(ii, frame(ii, area_um=np.full(1, ii * 10, dtypes[ii]))) for ii in (1, 0, 4, 2, 3)]
    thread_for(path, items, counts_of(1, 1, 1, 1, 1)).run()
    assert_frames(path, (1, 1, 1, 1, 1), 5)
    assert read(path)["area_um"].dtype == np.float64


@pytest.mark.parametrize("threshold", [1, 3], ids=["batches", "one-batch"])
def test_fault11_masks_of_all_kinds_are_stored_as_0_and_255(
    threshold: int, tmp_path: Path
) -> None:
    path = tmp_path / "out.rtdc"
    truth = frame(1)["mask"]
    kinds = [truth, truth.astype(np.uint8), truth * np.uint8(255)]
    items = [(ii, {"mask": mask}) for ii, mask in enumerate(kinds)]
    thread_for(path, items, counts_of(1, 1, 1), write_threshold=threshold).run()
    mask = read(path)["mask"]
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.concatenate([truth] * 3) * np.uint8(255))


@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1), (1, 1, 1, -1, 1)], ids=["frame", "count"])
def test_fault05_what_never_comes_is_a_stall(counts: Sequence[int], tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    items = [(ii, frame(ii)) for ii in (4, 0, 2, 1)]
    writer = ended(thread_for(path, items, counts_of(*counts), stall_timeout=0.2))
    with pytest.raises(StallError) as caught:
        writer.join()
    assert caught.value.missing_frames == [3]
    message_has(caught.value, "0.2 s", "frames 3")
    with pytest.raises(StallError):
        _ = writer.written_frames.value
    assert_frames(path, (1, 1, 1, 1, 1), 3)


@pytest.mark.parametrize("counts", [(1, 1, 1, 1, 1), (1, 1, 1, -1, 1)], ids=["frame", "count"])
def test_fault05_abort_from_outside(counts: Sequence[int], tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    writer = thread_for(path, (), counts_of(*counts))
    writer.event_queue = TellingQueue()
    for ii in (1, 0, 2, 4):
        writer.event_queue.put((ii, frame(ii)))
    writer.start()
    assert writer.event_queue.emptied.wait(RESULT_TIMEOUT_S)
    assert writer.is_alive()
    writer.abort()
    writer.join(RESULT_TIMEOUT_S)
    assert not writer.is_alive()
    assert isinstance(writer.error, AbortedError)
    assert writer.written_frames.value == 3
    assert writer.write_queue_size.value == 0
    assert_frames(path, (1, 1, 1, 1, 1), 3)


def test_fault05_counts_that_come_late_are_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    counts = counts_of(-1, -1, -1)
    writer = thread_for(path, (), counts)
    writer.event_queue = TellingQueue()
    writer.start()
    assert writer.event_queue.emptied.wait(RESULT_TIMEOUT_S)
    for ii in (2, 0, 1):
        counts[ii] = ii
        if ii:
            writer.event_queue.put((ii, frame(ii, ii)))
    writer.join(RESULT_TIMEOUT_S)
    assert writer.written_events.value == 3
    assert_frames(path, (0, 1, 2), 3)


@pytest.mark.parametrize("threshold", [0, -1, 1.5, True], ids=lambda value: f"fault08-{value}")
def test_fault08_threshold(threshold: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write_threshold"):
        thread_for(tmp_path / "out.rtdc", (), counts_of(1), write_threshold=threshold)
    assert not list(tmp_path.iterdir())


def test_fault04_thread_whose_path_cannot_be_opened(tmp_path: Path) -> None:
    writer = ended(thread_for(tmp_path / "no" / "out.rtdc", [(0, frame(0))], counts_of(1)))
    with pytest.raises(StorageError) as caught:
        writer.join()
    assert caught.value.errno == 2
    assert "out.rtdc" in str(caught.value.filename)
    with pytest.raises(StorageError):
        _ = writer.written_frames.value
    assert writer.write_queue_size.value == 0


def test_an_error_of_the_writing_thread_ends_the_collecting(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    options = {"hdf5_dataset_kwargs": {"compression": "nonsense"}}
    # frame 2 never comes: only the writer's error can end this
    writer = ended(thread_for(path, [(0, frame(0)), (1, frame(1))], counts_of(1, 1, 1), **options))
    with pytest.raises(dcwrite.DataError, match="nonsense"):
        writer.join()
    assert not path.exists()  # no batch was complete


def test_an_error_of_the_queue_keeps_what_came_before(tmp_path: Path) -> None:
    class BrokenQueue(TellingQueue):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if self.empty():
                raise EOFError("the other end is gone")
            return super().get(block, timeout)

    path = tmp_path / "out.rtdc"
    writer = thread_for(path, (), counts_of(1, 1, 1, 1))
    writer.event_queue = BrokenQueue()
    for ii in (0, 1, 2):
        writer.event_queue.put((ii, frame(ii)))
    with pytest.raises(EOFError):
        writer.run()
    assert_frames(path, (1, 1, 1, 1), 3)


def test_fault06_the_last_batch_is_never_lost(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    for _ in range(20):
        items = [(ii, {"deform": np.full(1, ii / 8)}) for ii in (1, 0, 2)]
        ended(thread_for(path, items, counts_of(1, 1, 1))).join()
        assert read(path)["deform"].tolist() == [0, 0.125, 0.25]


def test_fault18_the_caller_keeps_his_dict(tmp_path: Path) -> None:
    kwds = {"compression": "gzip"}
    writer = thread_for(
        tmp_path / "out.rtdc", [(0, frame(0))], counts_of(1), hdf5_dataset_kwargs=kwds
    )
    writer.run()
    assert kwds == {"compression": "gzip"}


@pytest.mark.parametrize("kind", [str, Path])
def test_fault18_an_existing_file_is_replaced(kind: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    path.write_bytes(b"not HDF5")
    thread_for(kind(path), [(0, frame(0))], counts_of(1)).run()
    assert_frames(path, (1,), 1)


def test_frames_in_any_order_come_out_sorted(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    threads_before = threading.active_count()
    counts = counts_of(*np.random.default_rng(3).integers(0, 3, 97))
    order = [ii for worker in scrambled_frames(97, 3, seed=1) for ii in worker]
    items = [(ii, frame(ii, counts[ii]) if counts[ii] else None) for ii in order]
    writer = thread_for(path, items, counts, write_threshold=10, threads=2, event_count=True)
    writer.start()
    writer.join(RESULT_TIMEOUT_S)
    assert (writer.written_frames.value, writer.written_events.value) == (97, counts.sum())
    assert threading.active_count() == threads_before
    # values above 255 wrap in the images of `frame` and in the expected ones alike
    assert_frames(path, counts, 97)


def test_no_frames_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    thread_for(path, (), counts_of()).run()
    assert read(path) == {}
