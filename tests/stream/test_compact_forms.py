"""Masks as bits and backgrounds as numbers: what comes out of an EventQueue is what went in."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import queue
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import (
    DataError,
    EventQueue,
    QueueWriterProcess,
    QueueWriterThread,
    WriterDiedError,
)
from dcwrite.stream.lanes import Word
from dcwrite.stream.packing import Form, PackedEvents
from dcwrite.stream.producer import Producer
from dcwrite.stream.repeats import LEAST_EVENTS, LEAST_PER_VALUE, Repeats
from dcwrite.stream.runs import PackedRun

from .queue_workers import put_backgrounds_and_die, put_with_backgrounds, with_backgrounds
from .streams import RESULT_TIMEOUT_S, read
from .test_runs import collected

SPAWN = multiprocessing.get_context("spawn")
#: 1120 bytes, which is enough for the compact forms; the mask has a last byte that is not full.
SHAPE = (28, 40)
MASK_SHAPE = (29, 37)


def background(number: int, dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(number).integers(0, 250, SHAPE).astype(dtype)


def events_with(frame: int, numbers: list[int], dtype: str = "u1") -> dict[str, Any]:
    """Events with these backgrounds."""
    value = frame * 100.0 + np.arange(len(numbers))
    mask = np.random.default_rng(frame).random((len(numbers), *MASK_SHAPE)) < 0.3
    images = [background(number, dtype) for number in numbers]
    return {
        "deform": value,
        "image_bg": np.stack(images) if images else np.empty((0, *SHAPE), dtype),
        "mask": mask,
        "image": np.resize(value, (1, len(value))).T[:, :, np.newaxis].astype(np.uint8),
    }


@pytest.fixture
def event_queue() -> Iterator[EventQueue]:
    made = EventQueue(1 << 20, producers=4)
    yield made
    made.close()


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for feat, value in expected.items():
        assert found[feat].dtype == value.dtype, feat
        np.testing.assert_array_equal(found[feat], value)


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[int, list[list[int]]]]:
    """Puts: the first frame, and the numbers of the backgrounds of each frame's events."""
    calls, frame, number = [], 0, 0
    change = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    random = draw(st.randoms(use_true_random=False))
    while frame < 80:
        frames = []
        for _ in range(random.choice([1, 1, 1, 3, 15])):
            numbers = []
            for _ in range(random.choice([0, 1, 1, 1, 2, 5])):
                if random.random() < change:
                    number = random.randrange(6)
                numbers.append(number)
            frames.append(numbers)
        calls.append((frame, frames))
        frame += len(frames)
    if draw(st.booleans()):
        random.shuffle(calls)
    return calls


def put_call(producer: Any, first: int, frames: list[list[int]], dtype: str) -> dict[int, Any]:
    """Put with `put` or `put_batch`; gives the events by frame."""
    found = {
        first + ii: events_with(first + ii, numbers, dtype)
        for ii, numbers in enumerate(frames)
        if numbers
    }
    if len(frames) == 1:
        for frame, events in found.items():
            producer.put((frame, events), None)
    elif found:
        parts = list(found.values())
        joined = {feat: np.concatenate([part[feat] for part in parts]) for feat in parts[0]}
        producer.put_batch(first, [len(n) for n in frames], joined, True, None)
    return found


@given(
    calls=streams(),
    n_producers=st.integers(1, 3),
    threshold=st.sampled_from([5, 40, 500]),
    dtype=st.sampled_from(["u1", "f4"]),
    memory_budget=st.sampled_from([1 << 28, 20_000]),
)
def test_batches_are_those_of_any_queue(
    calls: list[tuple[int, list[list[int]]]],
    n_producers: int,
    threshold: int,
    dtype: str,
    memory_budget: int,
) -> None:
    """Several producers, any order, runs and single frames, also through a file (small budget)."""
    n_frames = max(first + len(frames) for first, frames in calls)
    counts = np.zeros(n_frames, np.int32)
    for first, frames in calls:
        counts[first : first + len(frames)] = [len(numbers) for numbers in frames]
    plain: queue.Queue[Any] = queue.Queue()
    shared = EventQueue(1 << 24, producers=n_producers)
    producers = [Producer(shared._lanes) for _ in range(n_producers)]
    try:
        for number, (first, frames) in enumerate(calls):
            put = put_call(producers[number % n_producers], first, frames, dtype)
            for item in put.items():
                plain.put(item)
        found, expected = [
            [
                batch
                for batch in collected(
                    source, counts, threshold, frame_info=True, memory_budget=memory_budget
                )
                if batch[1]
            ]
            for source in (shared, plain)
        ]
    finally:
        for producer in producers:
            producer.close()
        shared.close()
    assert sum(n for *_, n, _ in found) == sum(n for *_, n, _ in expected) == counts.sum()
    for feat in expected[0][0] if expected else []:
        ours, theirs = (
            np.concatenate([ev[feat] for ev, *_ in some]) for some in (found, expected)
        )
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_what_a_caller_sees(event_queue: EventQueue) -> None:
    """`get` and `get_many` give arrays, whatever went through the memory."""
    given_events = [events_with(frame, [1, 1, 2]) for frame in range(6)]
    for frame, events in enumerate(given_events):
        event_queue.put((frame, events))
    frame, events = event_queue.get(timeout=5)
    assert frame == 0
    assert_same(events, given_events[0])
    assert events["image_bg"].flags.writeable
    many = event_queue.get_many(timeout=5)
    assert [frame for frame, _ in many] == [1, 2, 3, 4, 5]
    for frame, packed in many:
        assert isinstance(packed, PackedEvents)
        forms = {column.name: column.form for column in packed.layout.arrays}
        assert forms == {"image_bg": Form.SHARED, "mask": Form.BITS, "image": Form.PLAIN}
        assert_same(dict(packed), given_events[frame])
        assert_same(packed.arrays, {f: v for f, v in given_events[frame].items() if v.ndim > 1})
        assert not packed["mask"].flags.writeable
        assert_same(
            packed.part(1, 2).unpacked(), {f: v[1:] for f, v in given_events[frame].items()}
        )
        assert packed.nbytes >= sum(value.nbytes for value in given_events[frame].values())
    copies = [packed.copy() for _, packed in many]
    event_queue.put((6, events_with(6, [3])))
    event_queue.get(timeout=5)
    for (frame, _), kept in zip(many, copies, strict=True):
        assert_same(kept.unpacked(), given_events[frame])
        assert len(kept.shared) == 2


@pytest.mark.parametrize(
    "form", ["broadcast", "reversed", "a part", "fortran", "not native", "changed in place"]
)
def test_arrays_of_all_kinds(form: str, event_queue: EventQueue) -> None:
    values = np.stack([background(1), background(1), background(2)])
    if form == "broadcast":
        values = np.broadcast_to(background(4), (3, *SHAPE))
    elif form == "reversed":
        values = values[::-1, :, ::-1]
    elif form == "a part":
        values = np.concatenate([values, values], axis=2)[:, :, 5 : 5 + SHAPE[1]]
    elif form == "fortran":
        values = np.asfortranarray(values)
    elif form == "not native":
        values = values.astype(">u2")
    expected = []
    for frame in range(3):
        if form == "changed in place":
            values[1, 2, 3] += frame  # the same array, other content
        events = {**events_with(frame, [0, 0, 0]), "image_bg": values}
        expected.append({feat: np.array(value) for feat, value in events.items()})
        event_queue.put((frame, events))
    for frame in range(3):
        _, events = event_queue.get(timeout=5)
        assert_same(events, expected[frame])


def test_the_bytes_count() -> None:
    """Zeros of both signs differ, and a not-a-number is the same as itself."""
    event_queue = EventQueue(1 << 20, producers=1)
    try:
        values = np.zeros((4, *SHAPE), np.float32)
        values[1:3] = -0.0
        values[3] = np.nan
        event_queue.put((0, {"image_bg": values, "deform": np.arange(4.0)}))
        event_queue.put((1, {"image_bg": values[3:], "deform": np.arange(1.0)}))
        for frame, n_events in ((0, 4), (1, 1)):
            _, events = event_queue.get(timeout=5)
            assert events["image_bg"].tobytes() == values[-n_events:].tobytes(), frame
        assert event_queue._producer._lane is not None
        assert event_queue._producer._lane.repeats_of("image_bg")._n_values == 3
    finally:
        event_queue.close()


def test_a_background_goes_through_once() -> None:
    """So many events have no room as they are."""
    shape = (80, 320)
    event_queue = EventQueue(1 << 20, producers=1)
    try:
        image_bg = np.broadcast_to(np.uint8(7), (200, *shape)).copy()
        assert image_bg.nbytes > 4 * event_queue.capacity_bytes
        mask = np.zeros((200, *shape), bool)
        mask[:, 30:40] = True
        events = {"deform": np.arange(200.0), "image_bg": image_bg, "mask": mask}
        event_queue.put_batch(0, [1] * 200, events, block=False)
        (run,) = event_queue.get_runs(5)
        assert isinstance(run, PackedRun)
        for frame, packed in run.items():
            assert_same(packed.unpacked(), {f: v[frame : frame + 1] for f, v in events.items()})
    finally:
        event_queue.close()


def test_backgrounds_that_never_repeat_go_as_they_are(event_queue: EventQueue) -> None:
    n_frames = LEAST_EVENTS + 20
    forms = []
    for frame in range(n_frames):
        events = events_with(frame, [frame])
        event_queue.put((frame, events))
        ((found, packed),) = event_queue.get_many(timeout=5)
        assert found == frame
        assert_same(packed.unpacked(), events)
        forms.append(packed.layout.arrays[0].form)
    assert forms == [Form.SHARED] * LEAST_EVENTS + [Form.PLAIN] * 20


def test_frames_without_events(event_queue: EventQueue) -> None:
    """Empty arrays, alone and between others, one by one and many alike."""
    expected = [events_with(frame, [1] * (frame in {0, 3})) for frame in range(20)]
    for frame, events in enumerate(expected):
        event_queue.put((frame, events))
    for frame, events in enumerate(expected[:2]):
        found, got = event_queue.get(timeout=5)
        assert found == frame
        assert_same(got, events)
    n_found = 2
    while n_found < len(expected):
        for item in event_queue.get_runs(5):
            for frame, packed in item.items() if isinstance(item, PackedRun) else [item]:
                assert frame == n_found
                assert_same(packed.unpacked(), expected[frame])
                n_found += 1


def test_when_it_is_worth_it() -> None:
    repeats = Repeats(iter(range(1, 10**6)))
    sent: list[int] = []
    for number in range(LEAST_EVENTS):
        numbers_of(repeats, np.full((LEAST_PER_VALUE, 8), number), lambda n, _: sent.append(n))
    assert sent == list(range(1, LEAST_EVENTS + 1))
    assert repeats.is_worth_it
    numbers_of(repeats, np.full((1, 8), -1), lambda n, _: sent.append(n))
    assert not repeats.is_worth_it


def numbers_of(repeats: Repeats, values: np.ndarray, send: Any) -> list[int]:
    return repeats.numbers(values, repeats.new_ones(values), send).tolist()


@pytest.mark.parametrize("n_before", [0, 1])
@pytest.mark.parametrize("n_sent", [0, 1, 2])
def test_values_that_could_not_be_sent(n_before: int, n_sent: int) -> None:
    """Whatever was sent before: no event gets the number of another value."""
    repeats = Repeats(iter(range(1, 100)))
    known: dict[int, float] = {}

    def send(number: int, data: bytes) -> None:
        if len(known) == most:
            raise queue.Full
        known[number] = np.frombuffer(data)[0]

    most = 99
    for value in range(n_before):
        numbers_of(repeats, np.full((1, 8), float(value)), send)
    most = len(known) + n_sent
    item = np.repeat([10.0, 10.0, 11.0, 12.0], 8).reshape(4, 8)
    with pytest.raises(queue.Full):
        numbers_of(repeats, item, send)
    most = 99
    for value in (11.0, 10.0, 0.0, 10.0, 12.0):
        (number,) = numbers_of(repeats, np.full((1, 8), value), send)
        assert known[number] == value
    assert [known[number] for number in numbers_of(repeats, item, send)] == [10, 10, 11, 12]


def test_an_item_that_was_given_up_leaves_no_wrong_background() -> None:
    """There was room for some of its backgrounds only, one of which the next frame has alone."""
    event_queue = EventQueue(1 << 17, producers=2)
    frame, number, n_partly = 0, 0, 0
    known = event_queue._producer

    def take(expected: list[dict[str, Any]]) -> None:
        for events in expected:
            assert_same(event_queue.get(timeout=5)[1], events)
        with pytest.raises(queue.Empty):
            event_queue.get(timeout=0)

    try:
        for size in (2, 3, 5, 9) * 5:
            expected: list[dict[str, Any]] = []
            with contextlib.suppress(queue.Full):
                while True:
                    before = next(copy.copy(known._lane._fresh)) if known._lane else 0
                    # often enough to be worth it
                    events = events_with(frame, [number + ii // 5 for ii in range(5 * size)])
                    event_queue.put_nowait((frame, events))
                    expected.append(events)
                    frame, number = frame + 1, number + size
            assert known._lane is not None
            n_sent = next(copy.copy(known._lane._fresh)) - before
            n_partly += 1 < n_sent < size
            take(expected)
            for one in (number + max(0, n_sent - 2), number, number + size - 1):
                for n_events in (1, 9):
                    events = events_with(frame, [one] * n_events)
                    event_queue.put((frame, events))
                    take([events])
                frame += 1
            number += size
        assert n_partly > 3
    finally:
        event_queue.close()


def test_trying_again_does_not_fill_the_memory() -> None:
    """An item for which there never is room, again and again: its backgrounds do not pile up."""
    event_queue = EventQueue(160 * 1024, producers=8)
    lane = event_queue._reader._known[0]
    try:
        # as large as is allowed; its backgrounds have more bytes than the lane
        item = {"image_bg": np.stack([background(number // 4) for number in range(120)])}
        for number in range(50):
            with pytest.raises(queue.Full):
                event_queue.put_nowait((0, item))
            with pytest.raises(queue.Empty):  # gives the memory back
                event_queue.get(timeout=0)
            event_queue.put((number, events_with(number, [7] * 5 + [8] * 5)))
            frame, events = event_queue.get(timeout=5)
            assert frame == number
            assert_same(events, events_with(number, [7] * 5 + [8] * 5))
            with pytest.raises(queue.Empty):
                event_queue.get(timeout=0)
            assert len(lane.shared) <= 2
        for _ in range(50):
            with pytest.raises(queue.Full):
                event_queue.put_nowait((0, item))
            with pytest.raises(queue.Empty):
                event_queue.get(timeout=0)
            assert len(lane.shared) == 0
    finally:
        event_queue.close()


def test_a_batch_of_many_backgrounds_is_bounded(event_queue: EventQueue) -> None:
    """It goes in parts: what the reader has beside the queue stays below a part of a lane."""
    n_frames = 2000
    events = events_with(0, list(range(n_frames)))
    thread = threading.Thread(
        target=event_queue.put_batch, args=(0, [1] * n_frames, events), daemon=True
    )
    lane = event_queue._reader._known[0]
    thread.start()
    n_found, most = 0, 0
    while n_found < n_frames:
        for item in event_queue.get_runs(10):
            for frame, packed in item.items() if isinstance(item, PackedRun) else [item]:
                assert frame == n_found
                assert packed["image_bg"].tobytes() == events["image_bg"][frame].tobytes()
                n_found += 1
            most = max(most, sum(map(len, item.shared.values())))
        most = max(most, sum(map(len, lane.shared.values())))
    thread.join()
    assert 0 < most < event_queue._lanes.lane_bytes // 3


def test_frames_with_contours_forget_values(event_queue: EventQueue) -> None:
    lane = event_queue._reader._known[0]
    for first in range(0, 200, 20):
        for frame in range(first, first + 20):
            events = {**events_with(frame, [frame // 4]), "contour": [np.ones((5, 2), int)]}
            event_queue.put((frame, events))
        items = event_queue.get_runs(5)
        while len(items) < 20:
            items += event_queue.get_runs(5)
        assert len(lane.shared) <= 2


def test_an_item_that_is_too_large_is_no_death() -> None:
    """It is refused before its background is sent, however little of it would have to go."""
    event_queue = EventQueue(1 << 16, producers=1)
    producer = Producer(event_queue._lanes)
    try:
        producer.put((0, events_with(0, [1])), None)
        large = events_with(1, [2] * 60)
        with pytest.raises(DataError, match="expected at most 65536 bytes"):
            producer.put((1, large), None)
        words, lane = event_queue._lanes.words, producer._lane
        assert lane is not None
        begun = words[lane.words + Word.BEGUN]
        event_queue.get(timeout=5)
        assert event_queue._reader._known[0].seen == begun
    finally:
        producer.close()
        event_queue.close()


def test_no_room_for_the_events_behind_their_background() -> None:
    """What was put before and after comes out; what was refused does not."""
    event_queue = EventQueue(64 * 1024, producers=1)
    try:
        n_put, expected = 0, {}
        with contextlib.suppress(queue.Full):
            while True:
                events = events_with(n_put, [n_put] * 2)
                event_queue.put_nowait((n_put, events))
                expected[n_put] = events
                n_put += 1
        assert n_put > 5
        while len(expected) < 3 * n_put:
            frame, events = event_queue.get(timeout=5)
            assert_same(events, expected[frame])
            for _ in range(3):
                number = len(expected)
                with contextlib.suppress(queue.Full):
                    events = events_with(number, [number, number + 1000])
                    event_queue.put_nowait((number, events))
                    expected[number] = events
            if frame == len(expected) - 1:
                break
    finally:
        event_queue.close()


def test_the_reader_forgets_values(event_queue: EventQueue) -> None:
    """A recording of any length: a few values of each lane are kept."""
    lane = event_queue._reader._known[0]
    put_one = [lambda frame, ev: event_queue.put((frame, ev)),
               lambda frame, ev: event_queue.put_batch(
                   frame, [2, 2], {f: np.concatenate([v, v]) for f, v in ev.items()})]  # fmt: skip
    for frame in range(0, 200, 2):
        put_one[frame // 2 % 2](frame, events_with(frame, [frame // 8, (frame + 4) // 8]))
        assert event_queue.get_runs(5)
        assert len(lane.shared) <= 2
    assert len(event_queue._reader._values._kept) <= 4


def test_the_next_owner_of_a_lane_has_other_numbers() -> None:
    """Frames of a producer that has gone may still wait when the next one uses its lane."""
    event_queue = EventQueue(1 << 20, producers=1)
    try:
        numbers = []
        for owner in range(3):
            producer = Producer(event_queue._lanes)
            events = events_with(owner, [owner])
            producer.put((owner, events), None)
            producer.close()
            ((_, packed),) = event_queue.get_many(timeout=5)
            assert_same(packed.unpacked(), events)
            numbers += list(packed.shared)
            with pytest.raises(queue.Empty):
                event_queue.get(timeout=0)
        assert len(set(numbers)) == 3
    finally:
        event_queue.close()


def test_lanes_share_values(event_queue: EventQueue) -> None:
    """Workers that have the same background: one array, so that its chunks are encoded once."""
    producers = [Producer(event_queue._lanes) for _ in range(2)]
    for frame in range(4):
        producers[frame % 2].put((frame, events_with(frame, [frame // 2])), None)
    found: dict[int, Any] = {}
    while len(found) < 4:
        for frame, packed in event_queue.get_many(timeout=5):
            (found[frame],) = packed.own_shared().values()
    assert found[0] is found[1]
    assert found[2] is found[3]
    for producer in producers:
        producer.close()


@pytest.mark.parametrize("writer_class", [QueueWriterThread, QueueWriterProcess])
@pytest.mark.parametrize(
    "options",
    [{}, {"dedup_background": True}, {"compression": "live"}, {"compression": "none"},
     {"hdf5_dataset_kwargs": {"compression": "gzip"}}, {"in_place": True}],
    ids=lambda options: "-".join(options) or "default",
)  # fmt: skip
def test_recordings_of_worker_processes(
    writer_class: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    n_frames = 300
    counts = SPAWN.RawArray("i", [-1] * n_frames)
    event_queue = EventQueue(1 << 20, producers=2)
    workers = [
        SPAWN.Process(target=put_with_backgrounds, args=(event_queue, counts, number, 2))
        for number in range(2)
    ]
    if writer_class is QueueWriterProcess:
        options = {**options, "log_queue": None}
    writer = writer_class(
        event_queue=event_queue,
        write_queue_size=SPAWN.RawValue("L", 0),
        feat_nevents=counts,
        path_out=tmp_path / "out.rtdc",
        write_threshold=40,
        **options,
    )
    for process in (*workers, writer):
        process.start()
    try:
        writer.join(RESULT_TIMEOUT_S)
        assert not writer.is_alive()
        for worker in workers:
            worker.join(RESULT_TIMEOUT_S)
            assert worker.exitcode == 0
    finally:
        for worker in workers:
            worker.kill()
        event_queue.close()
    expected = [with_backgrounds(frame) for frame in range(n_frames)]
    found = read(tmp_path / "out.rtdc")
    backgrounds = np.concatenate([events["image_bg"] for events in expected])
    if options.get("dedup_background"):
        with h5py.File(tmp_path / "out.rtdc") as h5:
            stored = h5["basin_events/image_bg"][:]
            np.testing.assert_array_equal(stored[h5["events/basinmap0"][:]], backgrounds)
            assert len(stored) == len(np.unique(backgrounds, axis=0))
    else:
        np.testing.assert_array_equal(found["image_bg"], backgrounds)
    masks = np.concatenate([events["mask"] for events in expected])
    np.testing.assert_array_equal(found["mask"], masks * np.uint8(255))
    deform = np.concatenate([events["deform"] for events in expected])
    np.testing.assert_array_equal(found["deform"], deform)


def test_a_producer_that_dies_behind_a_background(event_queue: EventQueue) -> None:
    """The background was announced, its events never were."""
    process = SPAWN.Process(target=put_backgrounds_and_die, args=(event_queue,))
    process.start()
    process.join(RESULT_TIMEOUT_S)
    frames = [event_queue.get(timeout=5)[0] for _ in range(2)]
    with pytest.raises(WriterDiedError, match="died in the middle of an item"):
        event_queue.get(timeout=5)
    assert frames == [0, 1]


def test_memory_of_a_stream_with_many_backgrounds(tmp_path: Path) -> None:
    """Each event has another background for a while, then all have one: nothing piles up."""
    n_frames = 1500
    shape = (100, 200)
    event_queue = EventQueue(1 << 21, producers=1)
    writer = QueueWriterThread(
        event_queue=event_queue,
        write_queue_size=SPAWN.RawValue("L", 0),
        feat_nevents=[1] * n_frames,
        path_out=tmp_path / "out.rtdc",
        write_threshold=50,
        memory_budget=8 << 20,
        compression="fast",
    )
    tracemalloc.start()
    try:
        writer.start()
        for frame in range(n_frames):
            # repeats just often enough to be shared
            image_bg = np.full((1, *shape), frame // LEAST_PER_VALUE % 250, np.uint8)
            event_queue.put((frame, {"deform": np.ones(1), "image_bg": image_bg}))
        writer.join()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        event_queue.close()
    assert n_frames * 100 * 200 / LEAST_PER_VALUE > 7 << 20  # all values together
    assert peak < 24 << 20
    found = read(tmp_path / "out.rtdc")["image_bg"][:, 0, 0]
    assert found.tolist() == [frame // LEAST_PER_VALUE % 250 for frame in range(n_frames)]
