"""Batches that end with a whole chunk of images, where that costs nobody any waiting."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import pytest

from dcwrite.errors import EventError, StallError
from dcwrite.format.chunking import best_chunk_shape
from dcwrite.stream.collector import Collector

SHAPE = (160, 320)
CHUNK = best_chunk_shape(SHAPE, np.uint8)[0]
#: so that a chunk is an eighth of a batch, and not a part of it
THRESHOLD = 8 * CHUNK + 3


class Stream:
    """A collector, what it is given, and the batches that it hands on."""

    def __init__(self, counts: list[int], known: bool = True, **options: Any) -> None:
        self.counts = counts
        self.shared = list(counts) if known else [-1] * len(counts)
        self.frames: queue.Queue[Any] = queue.Queue()
        #: number of frames and of events, first value of each event
        self.batches: list[tuple[int, int, list[int]]] = []
        self.collector = Collector(
            self.frames,
            self.shared,
            put_batch=self._note,
            check=lambda: None,
            stall_timeout=0.3,
            **{"write_threshold": THRESHOLD, **options},
        )

    def _note(self, events: dict[str, Any], n_events: int, n_frames: int) -> None:
        values = [] if "time" not in events else events["time"].tolist()
        assert len(values) == n_events
        if n_events:
            assert events["image"].shape == (n_events, *SHAPE)
            np.testing.assert_array_equal(events["image"][:, 0, 0], np.array(values) % 250)
        self.batches.append((n_frames, n_events, values))

    def put(self, frame: int, change: bool = False) -> None:
        n_events = self.counts[frame] + change
        if n_events:
            value = np.full(n_events, frame, float)
            images = np.empty((n_events, *SHAPE), np.uint8)
            images[:] = frame % 250
            self.frames.put((frame, {"time": value, "image": images}))

    @property
    def expected(self) -> list[int]:
        return np.repeat(np.arange(len(self.counts)), self.counts).tolist()

    @property
    def found(self) -> list[int]:
        return [value for *_, values in self.batches for value in values]


@pytest.mark.parametrize("order", ["forth", "back", "mixed"])
def test_batches_end_with_whole_chunks(order: str) -> None:
    n_frames = 5 * THRESHOLD
    stream = Stream([1] * n_frames)
    frames = np.arange(n_frames)
    if order == "back":
        frames = frames[::-1]
    elif order == "mixed":
        np.random.default_rng(1).shuffle(frames)
    for frame in frames.tolist():
        stream.put(frame)
    stream.collector.run()
    assert stream.found == stream.expected
    totals = np.cumsum([n_events for _, n_events, _ in stream.batches])
    # nothing is known of the chunks before the first batch; the last one ends where it ends
    assert (totals[1:-1] % CHUNK == 0).all()
    sizes = [n for n, *_ in stream.batches[:-1]]
    assert sizes[0] == THRESHOLD
    assert all(THRESHOLD <= size < THRESHOLD + CHUNK for size in sizes)


def test_nobody_waits_for_frames_that_are_not_known() -> None:
    """Each count is set when the frame is put: the batch ends with `write_threshold` frames."""
    stream = Stream([1] * (3 * THRESHOLD), known=False)
    put = stream.frames.get

    def get(timeout: float) -> Any:
        frame = stream.collector.n_received
        if frame < len(stream.counts):
            stream.shared[frame] = 1
            stream.put(frame)
        return put(timeout=timeout)

    stream.frames.get = get  # type: ignore[method-assign, assignment]
    stream.collector.run()
    assert stream.found == stream.expected
    assert [n for n, *_ in stream.batches] == [THRESHOLD] * 3


@pytest.mark.parametrize("seed", range(6))
def test_frames_with_several_events_or_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.choice([0, 1, 2, 5], 2 * THRESHOLD, p=[0.5, 0.35, 0.1, 0.05]).tolist()
    stream = Stream(counts)
    for frame in rng.permutation(len(counts)).tolist():
        stream.put(frame)
    stream.collector.run()
    assert stream.found == stream.expected, f"seed {seed}"
    assert sum(n for n, *_ in stream.batches) == len(counts)


@pytest.mark.parametrize("share", [0.999, 0.5])
def test_memory_is_not_taken_for_it(share: float) -> None:
    """Batches that the budget cuts are not made longer again."""
    event_bytes = SHAPE[0] * SHAPE[1] + 8
    n_most = int(share * THRESHOLD)
    stream = Stream([1] * (3 * THRESHOLD), memory_budget=4 * n_most * event_bytes)
    for frame in range(len(stream.counts)):
        stream.put(frame)
    stream.collector.run()
    assert stream.found == stream.expected
    assert max(n for n, *_ in stream.batches[1:]) <= n_most + 1


@pytest.mark.parametrize("number", range(THRESHOLD - 2, THRESHOLD + CHUNK + 2))
def test_a_bad_frame_near_the_end_of_a_batch(number: int) -> None:
    """All frames before it are handed on, those that make the batch longer included."""
    bad = THRESHOLD + number
    stream = Stream([1] * (4 * THRESHOLD))
    for frame in range(len(stream.counts)):
        stream.put(frame, change=frame == bad)
    with pytest.raises(EventError, match=f"frame {bad}"):
        stream.collector.run()
    assert stream.found == list(range(bad))


@pytest.mark.parametrize("number", [THRESHOLD - 1, THRESHOLD, THRESHOLD + 5, THRESHOLD + CHUNK])
def test_a_missing_frame_near_the_end_of_a_batch(number: int) -> None:
    missing = THRESHOLD + number
    stream = Stream([1] * (4 * THRESHOLD))
    for frame in range(len(stream.counts)):
        if frame != missing:
            stream.put(frame)
    with pytest.raises(StallError) as caught:
        stream.collector.run()
    assert caught.value.missing_frames[0] == missing
    assert stream.found == list(range(missing))


@pytest.mark.parametrize("n_more", [0, 1, 5, CHUNK])
@pytest.mark.parametrize("order", ["forth", "back"])
def test_nobody_waits_for_frames_that_were_announced(n_more: int, order: str) -> None:
    """All counts are set from the start, but only some frames come."""
    n_put = 2 * THRESHOLD + n_more
    stream = Stream([1] * (4 * THRESHOLD))
    for frame in range(n_put) if order == "forth" else reversed(range(n_put)):
        stream.put(frame)
    with pytest.raises(StallError):
        stream.collector.run()
    assert stream.found == list(range(n_put))
    # not only after the error, but before: two batches were there
    assert sum(n for n, *_ in stream.batches[:2]) >= 2 * THRESHOLD
