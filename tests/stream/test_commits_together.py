"""Batches are committed together while more of them wait: small ones by number, others by time."""

from __future__ import annotations

import collections
import multiprocessing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.stream import chunk_writer
from dcwrite.stream.chunk_writer import TOGETHER_FRAMES, BatchEnd

N_BATCHES = 2 * TOGETHER_FRAMES + 30


def writer_of(
    tmp_path: Path, waiting: collections.deque[Any], **options: Any
) -> dcwrite.ChunkWriter:
    size = multiprocessing.RawValue("L", 0)
    return dcwrite.ChunkWriter(tmp_path / "run.rtdc", waiting, size, mode="w", **options)


def test_one_commit_for_many_batches(tmp_path: Path) -> None:
    waiting: collections.deque[Any] = collections.deque()
    for number in range(N_BATCHES):
        waiting.append(("deform", np.array([0.5 * number])))
        waiting.append(("area_um", np.array([2.0 * number])))
        waiting.append(BatchEnd(1, 1))
    commits: list[tuple[int, int]] = []
    durable: list[int] = []
    writer = writer_of(
        tmp_path,
        waiting,
        on_batch=lambda n_events, n_frames: commits.append((n_events, n_frames)),
        on_durable=durable.append,
    )
    writer.finished_when_queue_empty()
    writer.run()
    # the last one is never kept waiting
    assert commits == [(TOGETHER_FRAMES,) * 2] * 2 + [(30, 30)]
    assert durable == [TOGETHER_FRAMES, 2 * TOGETHER_FRAMES, N_BATCHES]
    with h5py.File(tmp_path / "run.rtdc") as h5:
        np.testing.assert_array_equal(h5["events/deform"], 0.5 * np.arange(N_BATCHES))
        np.testing.assert_array_equal(h5["events/area_um"], 2.0 * np.arange(N_BATCHES))


def test_an_error_counts_the_batches_before(tmp_path: Path) -> None:
    waiting: collections.deque[Any] = collections.deque()
    for number in range(5):
        waiting.append(("deform", np.array([0.5 * number])))
        waiting.append(BatchEnd(1, 1))
    waiting.append(("deform", np.array([9.0])))
    waiting.append(("deform", np.array(["text"])))
    commits: list[tuple[int, int]] = []
    writer = writer_of(
        tmp_path,
        waiting,
        on_batch=lambda n_events, n_frames: commits.append((n_events, n_frames)),
    )
    writer.start()
    with pytest.raises(dcwrite.EventError):
        writer.join()
    assert commits == [(5, 5)]
    with h5py.File(tmp_path / "run.rtdc") as h5:
        np.testing.assert_array_equal(h5["events/deform"], 0.5 * np.arange(5))


@pytest.mark.parametrize(
    ("period_s", "expected"),
    [(0.0, [TOGETHER_FRAMES] * 5), (1e9, [TOGETHER_FRAMES, 4 * TOGETHER_FRAMES])],
)
def test_large_batches_share_a_commit_for_some_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, period_s: float, expected: list[int]
) -> None:
    monkeypatch.setattr(chunk_writer, "COMMIT_PERIOD_S", period_s)
    waiting: collections.deque[Any] = collections.deque()
    for number in range(5):
        waiting.append(("deform", np.full(TOGETHER_FRAMES, 0.5 * number)))
        waiting.append(BatchEnd(TOGETHER_FRAMES, TOGETHER_FRAMES))
    commits: list[int] = []
    writer = writer_of(
        tmp_path,
        waiting,
        on_batch=lambda n_events, _n_frames: commits.append(n_events),
    )
    writer.finished_when_queue_empty()
    writer.run()
    assert commits == expected
    with h5py.File(tmp_path / "run.rtdc") as h5:
        assert h5["events/deform"].shape == (5 * TOGETHER_FRAMES,)


class Timed(collections.deque[Any]):
    """Items with the time at which each is taken; the clock stands at that of the last."""

    now = 0.0

    def popleft(self) -> Any:
        self.now, item = super().popleft()
        return item


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # when the second batch ends, a commit is due; else it waits for the third one
        ((0.0, 0.0, 0.11, 0.11, 0.12, 0.12), [2, 4, 6]),
        ((0.0, 0.0, 0.01, 0.01, 0.12, 0.12), [2, 5, 6]),  # due before the third one is stored
        ((0.0, 0.0, 0.01, 0.01, 0.02, 0.02), [2, 6]),
        # the second one takes so long that the third one would take too long
        ((0.0, 0.0, 0.01, 0.06, 0.07, 0.2), [2, 4, 6]),
    ],
)
def test_no_batch_waits_longer_than_a_while(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    times: tuple[float, ...],
    expected: list[int],
) -> None:
    waiting = Timed()
    n = TOGETHER_FRAMES
    for number, start, end in zip(range(3), times[::2], times[1::2], strict=True):
        waiting.append((start, ("deform", np.full(n, float(number)))))
        waiting.append((end, BatchEnd(n, n)))
    monkeypatch.setattr(chunk_writer.time, "monotonic", lambda: waiting.now)
    n_taken: list[int] = []
    writer = writer_of(
        tmp_path,
        waiting,
        on_batch=lambda *_: n_taken.append(6 - len(waiting)),
    )
    writer.finished_when_queue_empty()
    writer.run()
    assert n_taken == expected
    with h5py.File(tmp_path / "run.rtdc") as h5:
        assert len(h5["events/deform"]) == 3 * n
