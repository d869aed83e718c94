"""Bounded memory of the collecting: smaller batches, and a file for frames that come early."""

from __future__ import annotations

import errno
import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import StorageError, UsageError
from dcwrite.simulate import scrambled_frames
from dcwrite.stream.channel import EventQueue
from dcwrite.stream.collector import Collector
from dcwrite.stream.early import EarlyFrames, size_bytes

from .streams import assert_frames, counts_of, frame, thread_for
from .test_packed_stash import assert_equal, contours, packed

#: one event of `frame` has 16 + 24 bytes
EVENT_BYTES = 40


def collect(items: list[Any], counts: Any, **options: Any) -> tuple[list[Any], int, int]:
    """Run a collector; gives its batches, and the most early frames in memory and in files."""
    event_queue: queue.Queue[Any] = queue.Queue()
    for item in items:
        event_queue.put(item)
    batches: list[Any] = []
    most = [0, 0]

    def look() -> None:
        most[0] = max(most[0], collector._early.held_bytes)
        most[1] = max(most[1], collector._early.n_spooled)

    def put_batch(events: Any, n_events: int, n_frames: int) -> None:
        look()  # `check` is called from time to time only, while items come
        batches.append((events, n_events, n_frames))

    options = {"write_threshold": 100, "put_batch": put_batch, "check": look, **options}
    collector = Collector(event_queue, counts, **options)
    collector.run()
    return batches, most[0], most[1]


def joined(batches: list[Any]) -> dict[str, Any]:
    parts = [events for events, n_events, _ in batches if n_events]
    return {feat: np.concatenate([part[feat] for part in parts]) for feat in parts[0]}


@pytest.mark.parametrize("kind", [dict, packed], ids=["dicts", "packed"])
@pytest.mark.parametrize("budget", [1, 4 * 1600, 10**6])
def test_any_budget_gives_the_same(budget: int, kind: Any, tmp_path: Path) -> None:
    counts = counts_of(*np.random.default_rng(3).integers(0, 4, 200))
    order = [ii for worker in scrambled_frames(200, 2, seed=2) for ii in worker]
    items = [(ii, kind(frame(ii, counts[ii]))) for ii in order if counts[ii]]
    expected, _, _ = collect(items, counts)
    batches, most_bytes, most_spooled = collect(
        items, counts, memory_budget=budget, spool_dir=tmp_path
    )
    assert [n_frames for _, _, n_frames in expected] == [100, 100]
    assert_equal(joined(batches), joined(expected))
    assert sum(n_frames for _, _, n_frames in batches) == 200
    for _, n_events, n_frames in batches:
        assert n_events * EVENT_BYTES <= budget // 4 or n_frames == 1
    assert most_bytes <= budget // 4
    assert (most_spooled > 0) == (budget < 10**6)
    assert not list(tmp_path.iterdir())


def test_the_size_of_the_first_batch_is_known_before_it_begins() -> None:
    """All counts are there from the start, but no event: it waits for one."""
    counts = counts_of(0, 0, *[2] * 50)
    items = [(ii, frame(ii, 2)) for ii in range(51, 1, -1)]
    batches, _, _ = collect(items, counts, memory_budget=4 * 10 * 2 * EVENT_BYTES)
    assert [n_frames for _, _, n_frames in batches][:3] == [12, 10, 10]
    assert joined(batches)["index_unmapped"].tolist() == sorted([*range(2, 52)] * 2)


def test_through_an_event_queue_into_a_file(tmp_path: Path) -> None:
    """The frame that all wait for comes last, and the ring is smaller than all others."""
    n_frames = 400
    path = tmp_path / "out.rtdc"
    event_queue = EventQueue(1 << 15, producers=1)
    writer = thread_for(path, (), [1] * n_frames, write_threshold=50, memory_budget=40000)
    writer.event_queue = event_queue
    writer.start()
    for index in range(n_frames - 1, -1, -1):
        event_queue.put((index, frame(index)))
    writer.join()
    event_queue.close()
    assert [file.name for file in tmp_path.iterdir()] == ["out.rtdc"]
    assert_frames(path, [1] * n_frames, n_frames)


def test_wrong_budget() -> None:
    with pytest.raises(UsageError, match="memory_budget"):
        Collector((), (), write_threshold=1, put_batch=print, check=print, memory_budget=0)


# ------------------------------------------------------------------------------------------------
# early frames

EVENTS: list[Any] = [
    None,
    {},
    frame(1, 3),
    packed(frame(2, 2)),
    packed({"deform": np.ones(2), "contour": contours(2)}),
    {"deform": [1.0], "trace": {"fl1_raw": np.ones((1, 4))}},
    packed(frame(4, 5)).part(1, 3),
]


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(range(len(EVENTS)))), max_size=60
    ),
    budget=st.sampled_from([0, 700, 5000, 10**6]),
)
def test_early_frames(steps: Any, budget: int) -> None:
    """Put and taken in any order, against a dict."""
    early, model = EarlyFrames(budget), dict[int, Any]()
    early._segment_bytes = 300  # many files
    try:
        for index, kind in steps:
            if index in model:
                found, expected = early.pop(index), model.pop(index)
                assert_equal(
                    dict(found) if found else found, dict(expected) if expected else expected
                )
            else:
                early.add(index, EVENTS[kind])
                model[index] = EVENTS[kind]
            assert early.held_bytes <= budget
            assert early.in_range(5, 20) == sorted(ii for ii in model if 5 <= ii < 20)
            assert early.in_range(0, 500) == sorted(model)
            assert all(early.has_events(ii) == bool(events) for ii, events in model.items())
        while model:
            index, expected = model.popitem()
            found = early.pop(index)
            assert_equal(dict(found) if found else found, dict(expected) if expected else expected)
        assert early.held_bytes == early.n_spooled == 0
        assert early._segment is None
    finally:
        early.close()


def test_a_spool_folder_that_cannot_be_used(tmp_path: Path) -> None:
    early = EarlyFrames(100, tmp_path / "no")
    with pytest.raises(StorageError, match="memory_budget") as caught:
        early.add(3, frame(3))
    assert caught.value.errno == errno.ENOENT
    assert 3 not in early


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    early = EarlyFrames(100, tmp_path)
    early.add(3, frame(3))
    segment = early._segment
    assert segment is not None
    with Path("/dev/full").open("wb", buffering=0) as full:
        file, segment.file = segment.file, full
        with pytest.raises(StorageError) as caught:
            early.add(4, frame(4))
        segment.file = file
    assert caught.value.errno == errno.ENOSPC
    assert_equal(early.pop(3), frame(3))


def test_size_bytes() -> None:
    events = {"deform": np.ones(2), "contour": contours(2), "trace": {"a": np.ones((2, 3))}}
    n_bytes = 16 + (3 + 4) * 16 + 48
    assert size_bytes(events, object_bytes=0) == n_bytes
    assert 0 <= size_bytes(packed(events), object_bytes=0) - n_bytes < 200
