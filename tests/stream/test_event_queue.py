"""EventQueue: what goes in comes out, also when it wraps, waits, or is larger than the ring."""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import (
    ClosedError,
    DataError,
    EventError,
    QueueWriterProcess,
    QueueWriterThread,
    UsageError,
)
from dcwrite.stream.channel import EventQueue
from dcwrite.stream.packing import PackedEvents
from dcwrite.stream.producer import Producer

from .queue_workers import events_of, put_frames, put_numbered
from .streams import RESULT_TIMEOUT_S, ended, read, thread_for
from .test_thread_faults import BAD_ITEMS

SPAWN = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("fork")

MakeQueue = Callable[..., EventQueue]


@pytest.fixture
def make() -> Iterator[MakeQueue]:
    """Make queues that are closed at the end."""
    made: list[EventQueue] = []

    def make(*args: Any, **options: Any) -> EventQueue:
        made.append(EventQueue(*args, **options))
        return made[-1]

    yield make
    for event_queue in made:
        event_queue.close()


def assert_same(found: Any, expected: Any) -> None:
    """The same features, order, dtypes, shapes and values."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for feat, value in expected.items():
            assert_same(found[feat], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours, theirs)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def filled(event_queue: EventQueue, n_events: int | None) -> int:
    """Put frames 0, 1, ... until there is no room; gives their number."""
    n_items = 0
    try:
        while True:
            events = None if n_events is None else events_of(n_items, n_events)
            event_queue.put_nowait((n_items, events))
            n_items += 1
    except queue.Full:
        return n_items


ODD_ITEMS: dict[str, Any] = {
    "none": (3, None),
    "no-features": (3, {}),
    "no-events": (3, events_of(3, 0)),
    "text": "stop",
    "number": 5,
    "float-frame": (2.5, events_of(1)),
    "negative-frame": (-1, events_of(1)),
    "list-events": (1, [1, 2]),
    "lists": (1, {"deform": [1.0, 2.0]}),
    "uneven": (1, {"deform": np.zeros(2), "area_um": np.zeros(3)}),
    "text-array": (1, {"deform": np.array(["a"])}),
    "scalar": (1, {"deform": np.float64(3)}),
    "no-axis": (1, {"deform": np.array(3.0)}),
    "empty-name": (1, {"": np.zeros(1)}),
    "name-with-slash": (1, {"trace/fl1_raw": np.zeros((1, 3))}),
    "swapped-bytes": (1, {"deform": np.zeros(2, ">f8"), "area_um": np.ones(2)}),
    "complex": (1, {"deform": np.zeros(2, complex)}),
    "objects": (1, {"deform": np.array([None, 1], dtype=object)}),
    "contours": (1, {"deform": np.ones(2), "contour": [np.ones((4, 2)), np.zeros((9, 2))]}),
    "traces": (1, {"trace": {"fl1_raw": np.ones((2, 5), "i2"), "fl2_raw": np.ones((2, 5))}}),
    "traces-and-more": (
        1, {"deform": np.ones(2), "trace": {"fl1_raw": np.ones((2, 5), "i2")}, "tilt": np.ones(2)}
    ),
    "odd-traces": (1, {"deform": np.ones(2), "trace": {"fl1_raw": [[1, 2], [3, 4]]}}),
    "empty-traces": (1, {"deform": np.ones(2), "trace": {}}),
    "long-double": (1, {"deform": np.ones(2, np.longdouble), "area_um": np.ones(2, "f2")}),
    "images-only": (1, {"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)}),
    "empty-images": (1, {"image": np.zeros((2, 0, 4), np.uint8)}),
    "strided": (1, {"deform": np.arange(8.0)[::4], "image": np.ones((4, 6, 8), int)[::2, :, ::3]}),
    "fortran": (1, {"image": np.asfortranarray(np.arange(24).reshape(2, 3, 4))}),
}  # fmt: skip


@pytest.mark.parametrize("item", ODD_ITEMS.values(), ids=ODD_ITEMS.keys())
def test_every_kind_of_item(item: Any, make: MakeQueue) -> None:
    event_queue = make(1 << 16, producers=1)
    for given_item in (item, (7, events_of(7)), item):
        event_queue.put(given_item)
        assert_same(event_queue.get(timeout=0), given_item)
    assert event_queue.empty()


def test_layouts_with_the_same_names_do_not_mix(make: MakeQueue) -> None:
    event_queue = make(1 << 20, producers=1)
    features = [
        {"deform": np.ones(2), "image": np.ones((2, 3, 4), np.uint8)},
        {"deform": np.ones(2, np.float32), "image": np.ones((2, 3, 4), np.uint8)},
        {"deform": np.ones(2), "image": np.ones((2, 4, 3), np.uint8)},
        {"deform": np.ones(1), "image": np.ones((1, 3, 4), bool)},
        {"image": np.ones((2, 3, 4), np.uint8), "deform": np.ones(2)},
        {"deform": np.ones((2, 1)), "image": np.ones((2, 3, 4), np.uint8)},
        {"trace": {"a": np.ones((2, 3))}, "tilt": np.ones(2)},
        {"trace": {"a": np.ones((2, 3)), "b": np.ones((2, 3))}, "tilt": np.ones(2)},
        {"trace": {"b": np.ones((2, 3)), "a": np.ones((2, 3))}, "tilt": np.ones(2)},
    ]
    order = np.random.default_rng(4).integers(0, len(features), 200).tolist()
    for kind in order:
        event_queue.put((kind, features[kind]))
        assert_same(event_queue.get(), (kind, features[kind]))


DTYPES = st.sampled_from(["f8", "f4", "u1", "i2", "u4", "i8", "?", "f2"])
SHAPES = st.one_of(
    st.just(()), st.tuples(st.integers(1, 5)), st.tuples(st.integers(1, 30), st.integers(1, 30))
)


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[str, str, tuple[int, ...]]]:
    names = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True))
    return [(name, draw(DTYPES), draw(SHAPES)) for name in names]


@given(
    layouts=st.lists(layouts(), min_size=1, max_size=3),
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=40
    ),
    lane_bytes=st.sampled_from([1024, 1984, 5056, 1 << 15]),
)
def test_any_layout_wraps_around(layouts: Any, steps: Any, lane_bytes: int) -> None:
    """Sizes from nothing to many times the lane; the reader lags behind by some items."""
    rng = np.random.default_rng(1)
    # the capacity is that of 250 lanes, of which one is used
    event_queue = EventQueue(lane_bytes * 250, producers=250)
    waiting: list[Any] = []
    try:
        for number, (kind, n_events, lag) in enumerate(steps):
            events = {
                name: rng.integers(0, 100, (n_events, *shape)).astype(dtype)
                for name, dtype, shape in layouts[kind % len(layouts)]
            }
            n_bytes = sum(array.nbytes for array in events.values())
            waiting.append((number, events))
            if n_bytes < lane_bytes // 8:
                try:
                    event_queue.put(waiting[-1], block=False)
                except queue.Full:
                    while len(waiting) > 1:
                        assert_same(event_queue.get(timeout=0), waiting.pop(0))
                    with pytest.raises(queue.Empty):  # gives back what was lent last
                        event_queue.get_nowait()
                    event_queue.put(waiting[-1], block=False)
            else:
                putter = threading.Thread(target=event_queue.put, args=(waiting[-1],))
                putter.start()
                while waiting:
                    assert_same(event_queue.get(timeout=RESULT_TIMEOUT_S), waiting.pop(0))
                putter.join()
            while len(waiting) > lag:
                assert_same(event_queue.get(timeout=0), waiting.pop(0))
        while waiting:
            assert_same(event_queue.get(timeout=0), waiting.pop(0))
        assert event_queue.qsize() == 0
        assert event_queue.empty()
    finally:
        event_queue.close()


def test_events_that_change_while_the_lane_is_empty(make: MakeQueue) -> None:
    """A record that is given up for another layout leaves no room that is not there."""
    event_queue = make(1 << 14, producers=1)

    def events(frame: int, dtype: Any = np.int64) -> dict[str, Any]:
        image = np.full((1, 20, 20), frame % 251, np.uint8)
        return {
            "deform": np.array([float(frame)]),
            "fl1_max": np.array([frame], dtype),
            "image": image,
        }

    expected = [(0, events(0)), (1, events(1, np.float64))]
    for item in expected:
        event_queue.put(item)
    assert_same([event_queue.get(timeout=RESULT_TIMEOUT_S) for _ in expected], expected)
    with pytest.raises(queue.Empty):
        event_queue.get(block=False)  # the lane is empty from here on
    expected = [(2, events(2))]
    event_queue.put(expected[0])
    with pytest.raises(queue.Full):  # noqa: PT012 - how many there is room for is open
        while True:
            frame = 2 + len(expected)
            event_queue.put((frame, events(frame)), block=False)
            expected.append((frame, events(frame)))
    assert sum(ev["image"].nbytes for _, ev in expected) > (1 << 13)
    assert_same([event_queue.get(timeout=RESULT_TIMEOUT_S) for _ in expected], expected)


def test_an_item_larger_than_its_lane_goes_in_parts(make: MakeQueue) -> None:
    event_queue = make(1 << 18, producers=16)
    items = [(0, events_of(0)), (1, events_of(1, 40)), (2, events_of(2, 200)), (3, "x" * 10**5)]
    putter = threading.Thread(target=lambda: [event_queue.put(item) for item in items])
    putter.start()
    for item in items:
        assert_same(event_queue.get(timeout=RESULT_TIMEOUT_S), item)
    putter.join()


def test_an_item_larger_than_the_queue_is_refused(make: MakeQueue) -> None:
    event_queue = make(1 << 16, producers=2)
    with pytest.raises(DataError, match=r"frame 4: expected at most 65536 bytes.*capacity_bytes"):
        event_queue.put((4, {"image": np.zeros((1, 300, 300), np.uint8)}))
    event_queue.put((5, events_of(5)))
    assert_same(event_queue.get(), (5, events_of(5)))


def test_full(make: MakeQueue) -> None:
    event_queue = make(1 << 14, producers=1)
    n_items = filled(event_queue, 1)
    assert n_items == event_queue.qsize() > 10
    begin = time.monotonic()
    with pytest.raises(queue.Full):
        event_queue.put((n_items, events_of(n_items)), timeout=0.05)
    assert time.monotonic() - begin >= 0.05
    with pytest.raises(queue.Full):  # given up between two parts
        event_queue.put((n_items, "x" * ((1 << 14) - 100)), timeout=0.01)
    for frame in range(n_items):
        assert_same(event_queue.get(timeout=0), (frame, events_of(frame)))
    with pytest.raises(queue.Empty):
        event_queue.get_nowait()
    # nothing of what was given up stays behind
    for frame in range(3 * n_items):
        event_queue.put((frame, events_of(frame)), block=False)
        assert_same(event_queue.get(timeout=0), (frame, events_of(frame)))
    assert event_queue.qsize() == 0


def test_empty(make: MakeQueue) -> None:
    event_queue = make(1 << 16, producers=1)
    assert event_queue.empty()
    for options in ({"block": False}, {"timeout": 0}, {"timeout": 0.02}):
        with pytest.raises(queue.Empty):
            event_queue.get(**options)
    with pytest.raises(queue.Empty):
        event_queue.get_many(0)
    event_queue.put((1, None))
    assert not event_queue.empty()
    assert event_queue.qsize() == 1
    assert event_queue.get_nowait() == (1, None)


def test_waiting_costs_no_cpu(make: MakeQueue) -> None:
    event_queue = make(1 << 14, producers=1)
    begin_s = time.thread_time()
    with pytest.raises(queue.Empty):
        event_queue.get(timeout=0.5)
    filled(event_queue, 1)
    with pytest.raises(queue.Full):
        event_queue.put((0, events_of(0)), timeout=0.5)
    assert time.thread_time() - begin_s < 0.1


def test_put_waits_for_room(make: MakeQueue) -> None:
    event_queue = make(1 << 14, producers=1)
    putter = threading.Thread(target=put_numbered, args=(event_queue, 0, 500))
    putter.start()
    for frame in range(500):
        found = event_queue.get(timeout=RESULT_TIMEOUT_S)
        assert_same(found, (frame, events_of(frame, 1 + frame % 3)))
    putter.join()


def test_threads_as_producers(make: MakeQueue) -> None:
    event_queue = make(1 << 15, producers=1)
    threads = [
        threading.Thread(target=put_numbered, args=(event_queue, first, 100))
        for first in (0, 1000, 2000)
    ]
    for thread in threads:
        thread.start()
    found = [event_queue.get(timeout=RESULT_TIMEOUT_S) for _ in range(300)]
    for thread in threads:
        thread.join()
    for first in (0, 1000, 2000):
        frames = [frame for frame, _ in found if first <= frame < first + 1000]
        assert frames == list(range(first, first + 100))
    for frame, events in found:
        assert_same(events, events_of(frame, 1 + frame % 3))


@pytest.mark.parametrize("context", [SPAWN, FORK], ids=["spawn", "fork"])
def test_processes_as_producers(context: Any, make: MakeQueue) -> None:
    event_queue = make(1 << 17, producers=4)
    counts = np.random.default_rng(2).integers(0, 4, 300).tolist()
    processes = [
        context.Process(target=put_frames, args=(event_queue, range(first, 300, 3), counts))
        for first in range(3)
    ]
    for process in processes:
        process.start()
    expected = {frame for frame in range(300) if counts[frame]}
    while expected:
        for frame, events in event_queue.get_many(RESULT_TIMEOUT_S):
            expected.remove(frame)
            assert_same(events.unpacked(), events_of(frame, counts[frame]))
    for process in processes:
        process.join(RESULT_TIMEOUT_S)
        assert process.exitcode == 0
    with pytest.raises(queue.Empty):
        event_queue.get(timeout=0)


def test_what_was_put_outlives_the_producer(make: MakeQueue) -> None:
    event_queue = make(1 << 20, producers=2)
    for first in range(0, 100, 10):  # more processes than lanes, one after the other
        process = FORK.Process(target=put_numbered, args=(event_queue, first, 10))
        process.start()
        if first < 20:
            process.join()
        found = [event_queue.get(timeout=RESULT_TIMEOUT_S)[0] for _ in range(10)]
        assert found == list(range(first, first + 10))
        process.join()


def test_too_many_producers(make: MakeQueue) -> None:
    event_queue = make(1 << 16, producers=1)
    event_queue.put((0, None))
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def put_one_too_many() -> None:
        try:
            event_queue.put((1, None))
        except UsageError as exc:
            sender.send(str(exc))

    process = FORK.Process(target=put_one_too_many)
    process.start()
    assert "at most 1 processes" in receiver.recv()
    process.join()


def test_one_process_reads(make: MakeQueue) -> None:
    event_queue = make(1 << 16, producers=2)
    event_queue.put((0, None))
    assert event_queue.get() == (0, None)
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def read_too() -> None:
        try:
            event_queue.get()
        except UsageError as exc:
            sender.send(str(exc))

    process = FORK.Process(target=read_too)
    process.start()
    assert "one process that reads" in receiver.recv()
    process.join()


@pytest.mark.parametrize("options", [{"producers": 0}, {"producers": 256}, {"capacity_bytes": 99}])
def test_wrong_sizes(options: Any) -> None:
    with pytest.raises(UsageError, match="expected"):
        EventQueue(**options)


def test_it_is_given_away_only_while_processes_are_spawned(make: MakeQueue) -> None:
    with pytest.raises(RuntimeError, match="inheritance"):
        pickle.dumps(make(1 << 16, producers=1))


# ------------------------------------------------------------------------------------------------
# many at once


def concatenated(frames: range, counts: list[int]) -> dict[str, Any]:
    parts = [events_of(frame, count) for frame, count in zip(frames, counts, strict=True) if count]
    return {feat: np.concatenate([part[feat] for part in parts]) for feat in parts[0]}


@pytest.mark.parametrize("capacity_bytes", [1 << 20, 1 << 14], ids=["one", "parts"])
@pytest.mark.parametrize("many", [True, False], ids=["get_many", "get"])
def test_put_batch(capacity_bytes: int, many: bool, make: MakeQueue) -> None:
    event_queue = make(capacity_bytes, producers=1)
    counts = np.random.default_rng(5).integers(0, 4, 70).tolist()
    events = concatenated(range(30, 100), counts)
    putter = threading.Thread(target=event_queue.put_batch, args=(30, counts, events))
    putter.start()
    found: dict[int, Any] = {}
    while len(found) < np.count_nonzero(counts):
        if many:
            items = event_queue.get_many(RESULT_TIMEOUT_S)
            found.update({frame: part.unpacked() for frame, part in items})
        else:
            found.update([event_queue.get(timeout=RESULT_TIMEOUT_S)])
    putter.join()
    assert list(found) == [frame for frame in range(30, 100) if counts[frame - 30]]
    for frame, part in found.items():
        assert_same(part, events_of(frame, counts[frame - 30]))
    assert event_queue.qsize() == 0


def test_put_batch_with_contours_and_traces(make: MakeQueue) -> None:
    event_queue = make(1 << 20, producers=1)
    events = {
        "deform": np.arange(5.0),
        "contour": [np.full((3 + ii, 2), ii) for ii in range(5)],
        "trace": {"fl1_raw": np.arange(20, dtype=np.int16).reshape(5, 4)},
    }
    event_queue.put_batch(8, [2, 0, 3], events)
    for frame, part in ((8, slice(2)), (10, slice(2, 5))):
        expected = {feat: value[part] for feat, value in events.items() if feat != "trace"}
        expected["trace"] = {"fl1_raw": events["trace"]["fl1_raw"][part]}  # type: ignore[call-overload]
        assert_same(event_queue.get(), (frame, expected))


@pytest.mark.parametrize(
    ("nevents", "match"),
    [([2, 2], "'deform': expected 4 events"), ([-1, 4], "non-negative"), (3, "shape")],
)
def test_put_batch_refuses_wrong_counts(nevents: Any, match: str, make: MakeQueue) -> None:
    event_queue = make(1 << 16, producers=1)
    with pytest.raises(EventError, match=match):
        event_queue.put_batch(0, nevents, events_of(0, 3))
    event_queue.put_batch(0, [0, 0], events_of(0, 0))
    assert event_queue.empty()


def test_get_many_lends_its_memory(make: MakeQueue) -> None:
    event_queue = make(1 << 16, producers=1)
    event_queue.put((1, events_of(1)))
    event_queue.put((2, events_of(2, 3)))
    (_, first), (_, second) = event_queue.get_many()
    assert isinstance(second, PackedEvents)
    assert (len(second), second.n_events) == (5, 3)
    assert second.scalars.shape == (3,)
    assert second.scalars.dtype.names == ("deform", "area_um", "fl1_max")
    assert list(second.arrays) == ["image", "mask"]
    assert not second["image"].flags.writeable
    assert_same(dict(first), events_of(1))
    kept = second.copy()
    assert_same(pickle.loads(pickle.dumps(second)), events_of(2, 3))
    with pytest.raises(queue.Empty):
        event_queue.get_many(0)
    with pytest.raises(UsageError, match="copy"):
        _ = second.scalars
    with pytest.raises(UsageError, match="copy"):
        _ = second["image"]
    assert_same(kept.unpacked(), events_of(2, 3))


# ------------------------------------------------------------------------------------------------
# the end


def test_a_closed_queue(make: MakeQueue) -> None:
    event_queue = make(1 << 16, producers=1)
    event_queue.put((1, events_of(1)))
    event_queue.close()
    event_queue.close()
    event_queue.join_thread()
    event_queue.cancel_join_thread()
    for call in (
        lambda: event_queue.put((1, None)), event_queue.get, event_queue.get_many,
        event_queue.empty, event_queue.qsize,
    ):  # fmt: skip
        with pytest.raises(ClosedError):
            call()


@pytest.mark.parametrize("waits_in", ["put", "get", "get_many"])
def test_close_wakes_who_waits(waits_in: str, make: MakeQueue) -> None:
    event_queue = make(1 << 14, producers=1)
    waiting = threading.Event()
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            if waits_in != "put":
                waiting.set()
                getattr(event_queue, waits_in)()
            for frame in range(10**6):
                if event_queue.qsize() > 10:
                    waiting.set()
                event_queue.put((frame, events_of(frame)))
        except ClosedError as exc:
            caught.append(exc)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert waiting.wait(RESULT_TIMEOUT_S)
    event_queue.close()
    waiter.join(RESULT_TIMEOUT_S)
    assert len(caught) == 1


def test_refuse_wakes_who_puts(make: MakeQueue) -> None:
    event_queue = make(1 << 14, producers=1)
    waiting = threading.Event()
    caught: list[BaseException] = []

    def put() -> None:
        try:
            for frame in range(10**6):
                if event_queue.qsize() > 10:
                    waiting.set()
                event_queue.put((frame, events_of(frame)))
        except ClosedError as exc:
            caught.append(exc)

    putter = threading.Thread(target=put)
    putter.start()
    assert waiting.wait(RESULT_TIMEOUT_S)
    event_queue.refuse()
    putter.join(RESULT_TIMEOUT_S)
    assert len(caught) == 1


# ------------------------------------------------------------------------------------------------
# with the queue writers


def test_same_recording_through_both_queues(make: MakeQueue, tmp_path: Path) -> None:
    """Two workers; a writer process behind an EventQueue, a thread behind an ordinary queue."""
    n_frames = 200
    counts = np.random.default_rng(7).integers(0, 4, n_frames).tolist()
    feat_nevents = SPAWN.RawArray("i", [-1] * n_frames)
    event_queue = make(1 << 18, producers=4)
    log_queue = SPAWN.Queue()
    process = QueueWriterProcess(
        log_queue=log_queue,
        event_queue=event_queue,
        write_queue_size=SPAWN.RawValue("L", 0),
        feat_nevents=feat_nevents,
        path_out=tmp_path / "shared.rtdc",
        write_threshold=30,
        threads=1,
    )
    process.start()
    workers = [
        SPAWN.Process(
            target=put_frames, args=(event_queue, range(first, n_frames, 2), counts, feat_nevents)
        )
        for first in range(2)
    ]
    for worker in workers:
        worker.start()
    items = [(ii, events_of(ii, counts[ii])) for ii in reversed(range(n_frames)) if counts[ii]]
    thread = thread_for(tmp_path / "plain.rtdc", items, counts, write_threshold=30)
    ended(thread).join()
    for worker in workers:
        worker.join(RESULT_TIMEOUT_S)
        assert worker.exitcode == 0
    process.join(RESULT_TIMEOUT_S)
    assert process.exitcode == 0
    assert process.written_events.value == sum(counts)
    process.close()
    log_queue.close()
    log_queue.join_thread()
    found, same = read(tmp_path / "shared.rtdc"), read(tmp_path / "plain.rtdc")
    assert list(found) == list(same)
    for feat, data in same.items():
        assert found[feat].dtype == data.dtype
        np.testing.assert_array_equal(found[feat], data)


@pytest.mark.parametrize(
    ("item", "counts", "n_frames", "_words"), BAD_ITEMS.values(), ids=BAD_ITEMS.keys()
)
def test_same_errors_through_both_queues(
    item: Any, counts: Any, n_frames: int, _words: Any, make: MakeQueue, tmp_path: Path
) -> None:
    from .streams import assert_frames, counts_of, frame

    items = [(0, frame(0)), (1, frame(1, 2)), (2, frame(2)), item, (4, frame(4))]
    plain = ended(thread_for(tmp_path / "plain.rtdc", items, counts_of(*counts)))
    event_queue = make(1 << 20, producers=1)
    for each in items:
        event_queue.put(each)
    shared = ended(
        QueueWriterThread(
            event_queue=event_queue,
            write_queue_size=SPAWN.RawValue("L", 0),
            feat_nevents=counts_of(*counts),
            path_out=tmp_path / "shared.rtdc",
            write_threshold=2,
            threads=1,
        )
    )
    assert type(shared.error) is type(plain.error)
    assert str(shared.error) == str(plain.error)
    assert_frames(tmp_path / "shared.rtdc", counts, n_frames)
    with pytest.raises(ClosedError):  # nobody reads it any more
        event_queue.put((4, frame(4)))


class AlmostAnArray:
    """As of other libraries: no memory to look at, but an array when it is asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.dtype, self.shape, self.ndim = array, array.dtype, array.shape, array.ndim

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, key: Any) -> Any:
        return self.array[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype)


@pytest.mark.parametrize("feat", ["deform", "area_um", "image", "image_bg", "mask"])
@pytest.mark.parametrize("n_events", [1, 3])
def test_what_is_as_good_as_an_array(feat: str, n_events: int, make: MakeQueue) -> None:
    event_queue = make(1 << 20, producers=1)
    background = np.full((n_events, 40, 60), 7, np.uint8)
    masks = np.tile(np.arange(60) % 3 > 1, (n_events, 40, 1))
    expected = [
        {**events_of(frame, n_events), "image_bg": background, "mask": masks} for frame in range(3)
    ]
    for frame, events in enumerate(expected):
        given = dict(events)
        if frame == 1:
            given[feat] = AlmostAnArray(events[feat])
        event_queue.put((frame, given))
    for frame, events in enumerate(expected):
        found, got = event_queue.get(timeout=5)
        assert found == frame
        assert_same(got, events)


def odd_events(rng: np.random.Generator, frame: int) -> dict[str, Any]:
    """A single event, of arrays that lie in memory in all kinds of ways."""
    image = rng.integers(0, 256, (2, 40, 60), np.uint8)
    kinds = [
        image[:1],
        image[1:, :, ::-1],
        np.asfortranarray(image[:1]),
        np.broadcast_to(image[0, 0], (1, 40, 60)),
        np.ascontiguousarray(image.T).T[1:],
    ]
    background = np.full((1, 40, 60), frame // 7, np.uint8)
    return {
        "deform": rng.random(3)[rng.integers(3) :][:1],
        "area_um": rng.random(4).astype(np.float32)[::3][:1],
        "time": np.array([frame]),
        "image": kinds[rng.integers(len(kinds))],
        "mask": kinds[rng.integers(len(kinds))] > 100,
        "image_bg": background if rng.random() < 0.7 else np.asfortranarray(background),
        "qpi_pha": rng.random((2, 5, 6))[:, ::2][:1],
    }


@pytest.mark.parametrize("seed", range(5))
def test_both_ways_of_a_single_event_are_the_same(
    seed: int, make: MakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of frames which are like the one before, and the general one."""
    rng = np.random.default_rng(seed)
    items = [(frame, odd_events(rng, frame)) for frame in range(40)]
    n_general = 0
    send_packed = Producer._send_packed

    def counted(*args: Any, **options: Any) -> None:
        nonlocal n_general
        n_general += 1
        send_packed(*args, **options)

    monkeypatch.setattr(Producer, "_send_packed", counted)
    usual, general = make(1 << 20, producers=1), make(1 << 20, producers=1)
    for item in items:
        usual.put(item)
    assert n_general == 6  # the first one, and one for each new background
    for item in items:
        general.put(item)
        general._producer._lane.usual = None  # type: ignore[union-attr]
    assert n_general == 6 + len(items)
    for frame, expected in items:
        for event_queue in (usual, general):
            found, events = event_queue.get(timeout=5)
            assert found == frame
            assert_same(events, expected)


@pytest.mark.parametrize("index", [2**70, -(2**70), 2**63])
def test_a_frame_that_is_no_number_of_64_bits(index: int, make: MakeQueue) -> None:
    """It is refused, and the ones before and after it come."""
    event_queue = make(1 << 20, producers=1)
    for frame in (0, 1):
        event_queue.put((frame, events_of(frame)))
    for events in (events_of(2), None, [1]):
        with pytest.raises(EventError, match="64 bits"):
            event_queue.put((index, events))
    with pytest.raises(EventError, match="64 bits"):
        event_queue.put_batch(index - 1, [1, 1], events_of(2, 2))
    event_queue.put((3, events_of(3)))
    for frame in (0, 1, 3):
        found, events = event_queue.get(timeout=5)
        assert found == frame
        assert_same(events, events_of(frame))
    with pytest.raises(queue.Empty):
        event_queue.get(timeout=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1,), (1, 2)])
@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i8"])
def test_one_event_in_another_shape_or_dtype(
    shape: tuple[int, ...], dtype: str, make: MakeQueue
) -> None:
    """Nothing is taken for what the frames before had."""
    event_queue = make(1 << 20, producers=1)
    expected = [events_of(0), {**events_of(1), "deform": np.ones(shape, dtype)}, events_of(2)]
    for frame, events in enumerate(expected):
        event_queue.put((frame, events))
    for events in expected:
        assert_same(event_queue.get(timeout=5)[1], events)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX's timers")
def test_interrupts_leave_the_queue_usable(make: MakeQueue) -> None:
    """At any place of a put: nobody waits for ever, and what was put comes out, in order."""

    class Interruption(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interruption

    event_queue = make(1 << 20, producers=1)
    rng = np.random.default_rng(3)
    background = np.zeros((1, 40, 60), np.uint8)
    event_queue.put((0, {"deform": np.zeros(1), "image_bg": background}))
    found = [event_queue.get(timeout=5)[0]]
    expected, n_interruptions = [0], 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for frame in range(1, 3000):
            events = {"deform": np.array([frame / 8]), "image_bg": background + frame // 50 % 256}
            try:
                signal.setitimer(signal.ITIMER_REAL, float(rng.uniform(1e-6, 6e-5)))
                event_queue.put((frame, events))
                expected.append(frame)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interruption:
                n_interruptions += 1
            assert not event_queue._producer._lock.locked()
            if frame % 10 == 0:
                with suppress(queue.Empty):
                    while True:
                        number, got = event_queue.get(block=False)
                        assert got["deform"] == number / 8
                        assert (got["image_bg"] == number // 50 % 256).all()
                        found.append(number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with suppress(queue.Empty):
        while True:
            found.append(event_queue.get(block=False)[0])
    assert n_interruptions > 100
    assert found == sorted(set(found))
    assert set(expected) <= set(found)  # what was announced when it was interrupted may come, too
