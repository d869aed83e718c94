"""Frames that are taken together: nothing differs from one after the other."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import (
    AbortedError,
    EventError,
    EventStash,
    StallError,
    UsageError,
    WriterDiedError,
)
from dcwrite.stream import reader
from dcwrite.stream.arrivals import NOTHING, Arrivals, Records, by_lane
from dcwrite.stream.channel import EventQueue
from dcwrite.stream.collector import Collector
from dcwrite.stream.early import EarlyFrames
from dcwrite.stream.lanes import MESSAGE, Kind, Message
from dcwrite.stream.packing import PackedEvents
from dcwrite.stream.producer import Producer
from dcwrite.stream.runs import PackedRun
from dcwrite.stream.stash import Schema

from .queue_workers import Unreadable, events_of, put_and_die
from .streams import counts_of
from .test_event_queue import FORK

N_FRAMES = 60
#: Room for 224 frames with one event; the reader takes a quarter at a time.
LANE_BYTES = 224 * 256
#: Frames of another producer.
OTHERS = range(20, 40)


def items_of(found: list[Any]) -> list[tuple[int, Any]]:
    """Frames with copies of their events."""
    items: list[tuple[int, Any]] = []
    for item in found:
        singles = item.items() if isinstance(item, PackedRun) else [item]
        items += [(frame, None if ev is None else ev.unpacked()) for frame, ev in singles]
    return items


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for feat, value in expected.items():
        assert found[feat].dtype == value.dtype
        np.testing.assert_array_equal(found[feat], value)


@st.composite
def puts(draw: st.DrawFn) -> list[tuple[int, list[int]]]:
    """First frame and counts of each put; all frames once, in some order."""
    found, frame = [], 0
    while frame < N_FRAMES:
        size = draw(st.sampled_from([1, 1, 1, 2, 7, 20]))
        found.append((frame, draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))))
        frame += size
    order = draw(st.permutations(range(len(found)))) if draw(st.booleans()) else range(len(found))
    return [found[ii] for ii in order]


def put_all(event_queue: EventQueue, calls: list[tuple[int, list[int]]]) -> dict[int, Any]:
    """Put; gives the events of each frame that has some."""
    expected: dict[int, Any] = {}
    for first, counts in calls:
        events = [events_of(first + ii, n) for ii, n in enumerate(counts)]
        expected |= {first + ii: ev for ii, ev in enumerate(events) if counts[ii]}
        if len(counts) == 1:
            if counts[0]:
                event_queue.put((first, events[0]))
        else:
            joined = {feat: np.concatenate([ev[feat] for ev in events]) for feat in events[0]}
            event_queue.put_batch(first, counts, joined)
    return expected


@given(calls=puts())
def test_what_comes_in_runs_is_what_was_put(calls: list[tuple[int, list[int]]]) -> None:
    event_queue = EventQueue(1 << 20, producers=1)
    try:
        expected = put_all(event_queue, calls)
        found: list[tuple[int, Any]] = []
        while len(found) < len(expected):
            found += items_of(event_queue.get_runs(5))
        assert [frame for frame, _ in found] == list(expected)  # in the order of the producer
        for frame, events in found:
            assert_same(events, expected[frame])
    finally:
        event_queue.close()


@given(calls=puts(), threshold=st.sampled_from([1, 7, 25, 100]), frame_info=st.booleans())
def test_batches_are_the_same_as_without_runs(
    calls: list[tuple[int, list[int]]], threshold: int, frame_info: bool
) -> None:
    """The same frames through a queue that gives runs, and through one that gives dicts."""
    n_frames = max(first + len(counts) for first, counts in calls)
    counts = counts_of(*[0] * n_frames)
    for first, numbers in calls:
        counts[first : first + len(numbers)] = numbers
    event_queue = EventQueue(1 << 20, producers=1)
    plain: queue.Queue[Any] = queue.Queue()
    try:
        for item in put_all(event_queue, calls).items():
            plain.put(item)
        found, expected = [
            collected(source, counts, threshold, frame_info) for source in (event_queue, plain)
        ]
    finally:
        event_queue.close()
    assert len(found) == len(expected)
    for (ours, *numbers), (theirs, *their_numbers) in zip(found, expected, strict=True):
        assert numbers == their_numbers
        assert_same(ours, theirs)


def collected(source: Any, counts: Any, threshold: int, frame_info: bool, **options: Any) -> Any:
    """Batches, copied, as their memory is used again."""
    batches: list[Any] = []
    Collector(
        source,
        counts,
        write_threshold=threshold,
        put_batch=lambda ev, *numbers: batches.append(
            ({feat: np.array(value) for feat, value in ev.items()}, *numbers)
        ),
        check=lambda: None,
        stall_timeout=20,
        frame_info=frame_info,
        **options,
    ).run()
    return batches


def filled(event_queue: EventQueue, frames: range, n_events: int = 1) -> None:
    for frame in frames:
        event_queue.put((frame, events_of(frame, n_events)))


@pytest.fixture
def event_queue() -> Any:
    made = EventQueue(1 << 20, producers=1)
    yield made
    made.close()


def test_frames_that_are_alike_come_as_one(event_queue: EventQueue) -> None:
    filled(event_queue, range(30))
    run, = event_queue.get_runs(5)  # fmt: skip
    assert isinstance(run, PackedRun)
    assert run.frames.tolist() == list(range(30))
    assert run.counts.tolist() == [1] * 30


def test_early_frames_stay(event_queue: EventQueue) -> None:
    """They cost no copy; what is not asked for comes when it is."""
    filled(event_queue, range(30))
    found = items_of(event_queue.get_runs(5, range(12, 1000)))
    assert [frame for frame, _ in found] == list(range(12))
    event_queue.put((30, events_of(30)))
    assert event_queue.get_runs(5, range(12, 1000)) == []  # only early ones came
    assert event_queue.qsize() == 19
    assert not event_queue.empty()
    found = items_of(event_queue.get_runs(5, range(29, 1000)))
    assert [frame for frame, _ in found] == list(range(12, 29))
    found = items_of(event_queue.get_runs(5))
    assert [frame for frame, _ in found] == [29, 30]
    assert event_queue.empty()


def test_early_frames_come_when_nothing_else_does(event_queue: EventQueue) -> None:
    filled(event_queue, range(30))
    assert event_queue.get_runs(5, range(10, 1000))
    found = items_of(event_queue.get_runs(0.05, range(10, 1000)))
    assert [frame for frame, _ in found] == list(range(10, 30))
    with pytest.raises(queue.Empty):
        event_queue.get_runs(0.01, range(10, 1000))


def test_an_early_frame_is_no_obstacle(event_queue: EventQueue) -> None:
    """What stands behind it can be had."""
    filled(event_queue, range(50, 60))
    filled(event_queue, range(5))
    found = items_of(event_queue.get_runs(5, range(10, 1000)))
    assert [frame for frame, _ in found] == [*range(50, 60), *range(5)]


def test_nobody_waits_for_a_reader_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that hands a batch on finds full lanes: their early frames stay nevertheless."""
    event_queue = EventQueue(2 * LANE_BYTES, producers=2)
    away_s = 0.0
    clock = time.monotonic
    monkeypatch.setattr(reader, "time", SimpleNamespace(monotonic=lambda: clock() + away_s))

    def fill_up() -> None:
        for frame in range(50, 1000):
            event_queue.put_nowait((frame, events_of(frame)))

    with pytest.raises(queue.Full):
        fill_up()
    assert event_queue.get_runs(5, range(10, 1000)) == []
    away_s = 1.0
    other = Producer(event_queue._lanes)
    try:
        other.put((0, events_of(0)), None)
        found = items_of(event_queue.get_runs(5, range(10, 1000)))
        assert [frame for frame, _ in found] == [0]
        # who waits while it is there does so for a while only
        found = items_of(event_queue.get_runs(5, range(10, 1000)))
        assert [frame for frame, _ in found][:2] == [50, 51]
    finally:
        other.close()
        event_queue.close()


def test_frames_that_stay_are_in_the_way_of_the_next_producer(event_queue: EventQueue) -> None:
    """The lane of one that has ended is wanted by the next, who may bring what is missing."""
    filled(event_queue, range(50, 60))
    event_queue._producer.close()
    assert event_queue.get_runs(0, range(10, 1000)) == []  # nobody waits for it yet
    thread = threading.Thread(target=filled, args=(event_queue, range(3)), daemon=True)
    thread.start()
    found: list[int] = []
    start = time.monotonic()
    while len(found) < 13:
        assert time.monotonic() - start < 4
        found += [frame for frame, _ in items_of(event_queue.get_runs(5, range(10, 1000)))]
    thread.join()
    assert found == [*range(50, 60), *range(3)]


def test_frames_of_one_that_has_ended_stay() -> None:
    """As long as there are lanes for others, too."""
    event_queue = EventQueue(2 * LANE_BYTES, producers=2)
    items = [(frame, events_of(frame)) for frame in OTHERS]
    early = FORK.Process(target=put_items, args=(event_queue, items))
    try:
        early.start()
        early.join()
        filled(event_queue, range(8))
        found: list[int] = []
        while len(found) < 8:
            found += [frame for frame, _ in items_of(event_queue.get_runs(5, range(10, 1000)))]
        assert found == list(range(8))
        assert event_queue.qsize() == len(OTHERS)
        filled(event_queue, range(8, 10))
        while len(found) < 10 + len(OTHERS):
            found += [frame for frame, _ in items_of(event_queue.get_runs(5))]
        assert sorted(found) == [*range(10), *OTHERS]
    finally:
        event_queue.close()


@pytest.mark.parametrize("n_empty", [0, 3, 200])
def test_the_first_frames_are_not_copied(n_empty: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows how large events are; those that come early wait nevertheless."""
    copied: list[int] = []
    add = EarlyFrames.add

    def noting(self: EarlyFrames, frame: int, events: Any) -> None:
        copied.append(frame)
        add(self, frame, events)

    monkeypatch.setattr(EarlyFrames, "add", noting)
    event_queue = EventQueue(2 * LANE_BYTES, producers=2)
    n_frames = n_empty + 60
    ahead = range(n_empty + 1, n_frames, 2)
    process = FORK.Process(
        target=put_items, args=(event_queue, [(n, events_of(n)) for n in ahead])
    )
    counts = np.ones(n_frames, np.int64)
    counts[:n_empty] = 0
    batches: list[int] = []
    try:
        process.start()
        process.join()
        filled(event_queue, range(n_empty, n_frames, 2))
        Collector(
            event_queue,
            counts_of(*counts),
            write_threshold=40,
            put_batch=lambda _ev, n_events, _n: batches.append(n_events),
            check=lambda: None,
        ).run()
    finally:
        event_queue.close()
    assert sum(batches) == 60
    assert len(copied) <= 1  # the first one, where it is not known to be that


def test_a_producer_without_room_does_not_wait_for_ever() -> None:
    """Its lane is full of early frames, and the one that is missing comes last."""
    event_queue = EventQueue(1 << 15, producers=1)
    n_frames = 200
    thread = threading.Thread(target=filled, args=(event_queue, range(1, n_frames)), daemon=True)
    thread.start()
    found: list[int] = []
    start = time.monotonic()
    while len(found) < n_frames - 1:
        assert time.monotonic() - start < 60
        with suppress(queue.Empty):
            found += [frame for frame, _ in items_of(event_queue.get_runs(0.2, range(1, 1000)))]
    thread.join()
    assert found == list(range(1, n_frames))
    event_queue.close()


@pytest.mark.parametrize("timeout_s", [0.0, 0.005])
def test_a_producer_with_little_patience_gets_in(timeout_s: float) -> None:
    """Its lane is full of early frames; it tries again and again to put the missing one."""
    event_queue = EventQueue(1 << 15, producers=1)
    done = threading.Event()
    n_put = 1
    with suppress(queue.Full):
        while True:
            event_queue.put((n_put, events_of(n_put)), block=False)
            n_put += 1

    def try_again() -> None:
        while not done.is_set():
            with suppress(queue.Full):
                event_queue.put((0, events_of(0)), block=timeout_s > 0, timeout=timeout_s)
                return

    thread = threading.Thread(target=try_again, daemon=True)
    thread.start()
    found: list[int] = []
    start = time.monotonic()
    try:
        while 0 not in found:
            assert time.monotonic() - start < 30
            found += [frame for frame, _ in items_of(event_queue.get_runs(0.08, range(1, 1000)))]
    finally:
        done.set()
        thread.join()
        event_queue.close()
    assert found == [*range(1, n_put), 0]


def take_token_and_die(event_queue: EventQueue) -> None:
    """As one that is killed before it can say that a lane is its own."""
    assert event_queue._lanes.tokens.receive()
    os.kill(os.getpid(), signal.SIGKILL)


def insist(event_queue: EventQueue) -> None:
    """Ask for a lane, again and again."""
    while True:
        with suppress(queue.Full):
            event_queue.put((0, events_of(0)), timeout=0.01)
            return


def test_who_waits_for_a_lane_is_no_news() -> None:
    """Frames that never come are told, whoever asks for a lane meanwhile."""
    event_queue = EventQueue(1 << 20, producers=1)
    lost = FORK.Process(target=take_token_and_die, args=(event_queue,))
    waiter = FORK.Process(target=insist, args=(event_queue,))
    try:
        lost.start()
        lost.join()
        waiter.start()
        with pytest.raises(StallError, match="missing frames 0"):
            Collector(
                event_queue,
                counts_of(*[1] * 60),
                write_threshold=40,
                put_batch=lambda *_: None,
                check=lambda: None,
                stall_timeout=1,
            ).run()
    finally:
        waiter.kill()
        waiter.join()
        event_queue.close()


def test_a_first_frame_without_events_is_told_at_once(event_queue: EventQueue) -> None:
    """It was announced with one; others that come do not put that off."""
    event_queue.put((0, None))
    filled(event_queue, range(1, 5))
    done = threading.Event()

    def go_on() -> None:
        frame = 5
        while not done.wait(0.02) and frame < 280:
            filled(event_queue, range(frame, frame + 1))
            frame += 1

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    start = time.monotonic()
    try:
        error, _ = collected_until_error(event_queue, 300, 100)
    finally:
        done.set()
        thread.join()
    assert "frame 0" in str(error)
    assert time.monotonic() - start < 4


def collected_until_error(source: Any, n_frames: int, threshold: int) -> tuple[Any, int]:
    """The error, and the number of frames that were handed on."""
    handed_on: list[int] = []
    collector = Collector(
        source,
        counts_of(*[1] * n_frames),
        write_threshold=threshold,
        put_batch=lambda _ev, _n_events, n_frames: handed_on.append(n_frames),
        check=lambda: None,
        stall_timeout=20,
    )
    with pytest.raises((EventError, WriterDiedError)) as caught:
        collector.run()
    return caught.value, sum(handed_on)


def put_items(event_queue: EventQueue, items: list[Any]) -> None:
    """Put them one by one, in a process."""
    for item in items:
        event_queue.put(item)
    event_queue.close()


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ((150, events_of(150, 2)), "frame 150, feature 'deform': expected 1 events"),
        ((150, [1]), "frame 150: expected a dict"),
        ((5000, events_of(5000)), "frame 5000: expected a frame index from 0 to 299"),
        ("stop", "expected items (frame_index, events), got 'stop'"),
        ((149, events_of(149)), "frame 149: expected each frame once"),
        ((150, {"deform": Unreadable()}), "frame 150: expected an item that this process can"),
        ((150, {**events_of(150), "contour": [Unreadable()]}), "frame 150: expected an item"),
    ],
    ids=["counts", "list", "outside", "no-pair", "again", "unreadable", "unreadable-feature"],
)
def test_what_was_put_before_a_bad_item_is_saved(bad: Any, text: str) -> None:
    """Also what the queue still held, as its turn had not come."""
    event_queue = EventQueue(3 * LANE_BYTES, producers=3)
    items = [(149, events_of(149)), bad]
    others = FORK.Process(target=put_items, args=(event_queue, items))
    frame_0 = FORK.Process(target=put_items, args=(event_queue, [(0, events_of(0))]))
    try:
        filled(event_queue, range(1, 149))
        for process in (others, frame_0):
            process.start()
            process.join()
        error, n_frames = collected_until_error(event_queue, 300, 100)
    finally:
        event_queue.close()
    assert text in str(error)
    assert n_frames == 150


@pytest.mark.parametrize("make", [FORK.Queue, FORK.SimpleQueue])
def test_what_was_put_before_an_unreadable_item_is_saved(make: Any) -> None:
    """In a queue of multiprocessing, which does not know the frame."""
    source = make()
    for frame in range(40):
        source.put((frame, events_of(frame)))
    source.put((40, {"deform": Unreadable()}))
    try:
        error, n_frames = collected_until_error(source, 100, 32)
    finally:
        source.close()
    assert "event queue: expected an item that this process can unpickle, got ImportError" in str(
        error
    )
    assert isinstance(error.__cause__, ImportError)
    assert n_frames == 40


@pytest.mark.parametrize("take", ["get", "get_many"])
def test_an_unreadable_item_stops_nothing(event_queue: EventQueue, take: str) -> None:
    """What came before and behind it can be had."""
    filled(event_queue, range(3))
    event_queue.put((3, {"deform": Unreadable()}))
    event_queue.put((4, {"deform": Unreadable()}))
    filled(event_queue, range(5, 7))
    found: list[int] = []
    errors = []
    while len(found) + len(errors) < 7:
        try:
            items = [event_queue.get(timeout=5)] if take == "get" else event_queue.get_many(5)
        except EventError as exc:
            errors.append((len(found), str(exc).split(":")[0]))
            continue
        found += [frame for frame, _ in items_of(items if take == "get_many" else [])] or [
            frame for frame, _ in items
        ]
    assert found == [0, 1, 2, 5, 6]
    assert errors == [(3, "frame 3"), (3, "frame 4")]


def test_what_was_put_before_an_abort_is_saved(
    event_queue: EventQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames came while a batch was handed on, so that nobody had looked at them."""
    monkeypatch.setattr("dcwrite.stream.collector.CHECK_PERIOD_S", -1.0)  # it is noticed at once
    handed_on: list[int] = []

    def hand_on(_events: Any, _n_events: int, n_frames: int) -> None:
        handed_on.append(n_frames)
        if len(handed_on) == 1:
            filled(event_queue, range(100, 150))

    def check() -> None:
        if handed_on:
            raise AbortedError("the writer was aborted")

    filled(event_queue, range(100))
    collector = Collector(
        event_queue, counts_of(*[1] * 300), write_threshold=100, put_batch=hand_on, check=check
    )
    with pytest.raises(AbortedError):
        collector.run()
    assert handed_on == [100, 50]


def test_what_others_put_before_a_death_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker dies in the middle of frame 191; what another one had put stands in its lane."""
    monkeypatch.setattr("dcwrite.stream.reader._LOOK_PERIOD_S", 0.0)  # it is noticed at once
    event_queue = EventQueue(2 * LANE_BYTES, producers=2)
    worker = FORK.Process(target=put_and_die, args=(event_queue, 1, 190))
    try:
        filled(event_queue, range(190))
        filled(event_queue, range(192, 200))
        worker.start()
        worker.join()
        error, n_frames = collected_until_error(event_queue, 300, 32)
    finally:
        event_queue.close()
    assert isinstance(error, WriterDiedError)
    assert n_frames == 191


def test_a_lane_is_given_up_with_a_full_pipe(event_queue: EventQueue) -> None:
    """The next one who puts gets it, though nobody could be told that it is free."""
    n_put = 0
    with suppress(queue.Full):
        while True:
            event_queue.put((n_put, None), block=False)
            n_put += 1
    assert n_put > 100
    event_queue._producer.close()
    found = []
    while len(found) < n_put:
        found += event_queue.get_many(5)
    assert found == [(frame, None) for frame in range(n_put)]
    thread = threading.Thread(target=filled, args=(event_queue, range(1)), daemon=True)
    thread.start()
    start = time.monotonic()
    found = []
    while not found and time.monotonic() - start < 20:
        with suppress(queue.Empty):
            found = event_queue.get_many(0.05)
    assert [frame for frame, _ in found] == [0]
    thread.join()


def test_a_frame_beyond_the_last_one_does_not_stay(event_queue: EventQueue) -> None:
    """It is an error that is told at once."""
    event_queue.put((5000, events_of(5000)))
    found = items_of(event_queue.get_runs(5, range(10, 1000)))
    assert [frame for frame, _ in found] == [5000]
    filled(event_queue, range(5000, 5030))
    found = items_of(event_queue.get_runs(5, range(10, 1000)))
    assert found[0][0] == 5000


@pytest.mark.parametrize("threshold", [16, 100])
def test_contours_in_one_array_are_copied(threshold: int) -> None:
    """They are views of the queue's memory, which is used again."""
    n_frames = 600
    event_queue = EventQueue(1 << 15, producers=1)
    frames = range(n_frames)

    def put() -> None:
        for frame in frames:
            contour = np.full((1, 6, 2), frame, np.int32)
            event_queue.put((frame, {"deform": np.array([float(frame)]), "contour": contour}))

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    found: list[int] = []
    Collector(
        event_queue,
        counts_of(*[1] * n_frames),
        write_threshold=threshold,
        put_batch=lambda ev, *_: found.extend(int(contour.max()) for contour in ev["contour"]),
        check=lambda: None,
        stall_timeout=20,
    ).run()
    thread.join()
    event_queue.close()
    assert found == list(frames)


def test_a_stash_takes_what_fits_of_a_run(event_queue: EventQueue) -> None:
    filled(event_queue, range(20))
    run, = event_queue.get_runs(5)  # fmt: skip
    stash = EventStash(0, [1] * 9 + [2] + [1] * 10, schema=Schema())
    assert stash.add_run(run) == 0  # nothing is there yet that it could be like
    stash.add_events(*run.first_item())
    assert stash.add_run(run) == 0  # frame 0 again
    assert stash.add_run(run.part(1)) == 8  # frame 9 was announced with 2 events
    assert stash.add_run(run.part(10)) == 10
    assert stash.missing_frames() == [9]
    stash.add_events(9, events_of(9, 2))
    assert stash.is_complete()
    expected = np.concatenate([events_of(ii, 2 if ii == 9 else 1)["image"] for ii in range(20)])
    np.testing.assert_array_equal(stash.events["image"], expected)
    assert EventStash(5, [1] * 3).add_run(run) == 0


@pytest.mark.parametrize("end", ["next call", "close"])
def test_a_run_gives_its_memory_back(event_queue: EventQueue, end: str) -> None:
    filled(event_queue, range(10))
    run, = event_queue.get_runs(5)  # fmt: skip
    stash = EventStash(0, [1] * 10)
    stash.add_events(*run.first_item())
    if end == "close":
        event_queue.close()
    else:
        filled(event_queue, range(10, 12))
        event_queue.get_runs(5)
    with pytest.raises(UsageError, match="before the next call of get_runs"):
        stash.add_run(run.part(1))


# ------------------------------------------------------------------------------------------
# what was announced


def message(
    frame: int, end: int, size: int = 64, kind: int = Kind.PACKED, **other: int
) -> Message:
    values = {"lane": 0, "layout": 0, "sequence": frame, "n_events": 1, "n_frames": 1, **other}
    return Message(kind=kind, size_bytes=size, value=frame, end=end, **values)


def records(frames: list[int], end: int = 64) -> Records:
    return Records(np.array(frames), 0, 1, 64, end, frames[-1])


def test_messages_that_belong_together() -> None:
    lane_bytes = 64 * 30
    ends = [64 * (ii + 1) for ii in range(40)]
    sent = [message(ii, end, lane=ii % 2) for ii, end in enumerate(ends)]
    sent[7] = message(7, ends[7], kind=Kind.WAIT, lane=1)
    for ii in range(0, 40, 2):  # lane 0 side by side, lane 1 with gaps
        sent[ii] = message(ii, 64 * (ii // 2 + 21), lane=0)
    data = b"".join(MESSAGE.pack(*one) for one in sent)
    found = dict(by_lane(data, lane_bytes))
    assert [type(one) for one in found[1]] == [Message] * 20
    assert found[1] == sent[1::2]
    first, second = found[0]  # the lane ends in between
    assert first.frames.tolist() == list(range(0, 20, 2))
    assert second.frames.tolist() == list(range(20, 40, 2))
    assert (first.end, first.last_end) == (64 * 21, 64 * 30)
    assert (second.end, second.last_end) == (64 * 31, 64 * 40)
    assert second.sequence == 38


def test_few_messages_come_one_by_one() -> None:
    sent = [message(ii, 64 * (ii + 1)) for ii in range(3)]
    found = list(by_lane(b"".join(MESSAGE.pack(*one) for one in sent), 1 << 12))
    assert found == [(0, [one]) for one in sent]


def test_what_may_stay() -> None:
    arrivals = Arrivals()
    arrivals.append(records([3, 5, 9]))
    arrivals.append(message(11, 256))
    taken = arrivals.take(range(6, 1000), 10**6)
    assert isinstance(taken, Records)
    assert taken.frames.tolist() == [3, 5]
    assert taken.last_end == 128
    assert arrivals.take(range(9, 1000), 10**6) is None
    taken = arrivals.take(range(12, 1000), 10**6)
    assert isinstance(taken, Records)
    assert (taken.frames.tolist(), taken.end) == ([9], 192)
    assert arrivals.take(range(11, 1000), 10**6) is None
    arrivals.append(message(4, 320))  # out of order: all may be taken
    assert arrivals.take(range(5, 1000), 10**6) == message(11, 256)
    assert arrivals.take(range(5, 1000), 10**6) == message(4, 320)
    assert not arrivals
    arrivals.append(message(20, 384))
    assert arrivals.take(range(5, 1000), 10**6) is None
    arrivals.end(None)  # whether somebody waits for its lane is the reader's to know
    assert arrivals.take(range(5, 1000), 10**6) is None
    assert arrivals.take(NOTHING, 10**6) == message(20, 384)


def test_no_more_is_taken_than_asked_for() -> None:
    arrivals = Arrivals()
    arrivals.append(records(list(range(10))))
    sizes = []
    while arrivals:
        taken = arrivals.take(NOTHING, 200)
        assert isinstance(taken, Records)
        sizes.append(len(taken.frames))
    assert sizes == [3, 3, 3, 1]
    arrivals.append(records([1, 2]))
    one = arrivals.take(NOTHING, 1)
    assert isinstance(one, Records)
    assert len(one.frames) == 1


def test_other_things_do_not_stay() -> None:
    """Frames without events, what is pickled, what was put together from parts."""
    for one in (
        message(9, 0, 0, Kind.NONE),
        message(9, 64, kind=Kind.PICKLE),
        message(9, 64, size=0),
        message(0, 64, kind=Kind.LAYOUT),
    ):
        arrivals = Arrivals()
        arrivals.append(one)
        assert arrivals.take(range(5, 1000), 1) is one


def test_packed_events_of_a_run_are_views(event_queue: EventQueue) -> None:
    filled(event_queue, range(12), n_events=2)
    run, = event_queue.get_runs(5)  # fmt: skip
    for frame, events in run.items():
        assert isinstance(events, PackedEvents)
        assert_same(events.unpacked(), events_of(frame, 2))
    assert [frame for frame, _ in run.part(3, 5).items()] == [3, 4]
