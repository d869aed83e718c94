"""Batches begin before all their counts are known."""

from __future__ import annotations

import itertools
import queue
from typing import Any

import numpy as np
import pytest

from dcwrite.stream.collector import Collector

N_FRAMES = 5


class SlowQueue:
    """Sets counts, then gives one item: what producers do, in any order, step by step."""

    def __init__(self, steps: list[tuple[list[int], int]], counts: list[int]) -> None:
        self._steps = iter(steps)
        self._counts = counts

    def get(self, timeout: float) -> tuple[int, dict[str, Any]]:
        del timeout
        step = next(self._steps, None)
        if step is None:
            raise queue.Empty
        known, frame = step
        for number in known:
            self._counts[number] = number % 3
        return frame, {
            "deform": np.full(frame % 3, float(frame)),
            "frame": np.full(frame % 3, frame),
        }


def collected(steps: list[tuple[list[int], int]], threshold: int) -> list[float]:
    counts = [-1] * N_FRAMES
    batches: list[dict[str, Any]] = []
    collector = Collector(
        SlowQueue(steps, counts),
        counts,
        write_threshold=threshold,
        put_batch=lambda events, _n_events, _n_frames: batches.append(events),
        check=lambda: None,
        stall_timeout=0.2,
    )
    collector.run()
    return np.concatenate([batch["deform"] for batch in batches if "deform" in batch]).tolist()


@pytest.mark.parametrize("threshold", [3, N_FRAMES])
@pytest.mark.parametrize("order", list(itertools.permutations(range(N_FRAMES))), ids=str)
@pytest.mark.parametrize("ahead", [0, 1])
def test_any_order_of_counts_and_frames(
    order: tuple[int, ...], threshold: int, ahead: int
) -> None:
    # with `ahead`, the count of the next frame is known when this one comes
    steps = [
        ([frame, *order[place + 1 : place + 1 + ahead]], frame)
        for place, frame in enumerate(order)
    ]
    expected = [float(frame) for frame in range(N_FRAMES) for _ in range(frame % 3)]
    assert collected(steps, threshold) == expected
