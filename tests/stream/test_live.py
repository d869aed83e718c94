"""A recording that is being written is followed: by its journal, and by HDF5's SWMR mode."""

from __future__ import annotations

import collections
import queue
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import RawValue
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import (
    ChunkWriter,
    FeatureNotFoundError,
    QueueWriterThread,
    Recording,
    StorageError,
)
from dcwrite.store.live import LiveRecording
from dcwrite.stream.chunk_writer import BatchEnd

from .streams import RESULT_TIMEOUT_S, frame, read

N_FRAMES = 2500
BATCH = 100
COMPARED = ("deform", "area_um", "image", "mask")


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    frames = [frame(index) for index in range(N_FRAMES)]
    return {feat: np.concatenate([events[feat] for events in frames]) for feat in COMPARED}


class Stream:
    """A stream that is held until all frames that were put are durable."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.frames: queue.Queue[Any] = queue.Queue()
        self.n_put = 0
        self.writer = QueueWriterThread(
            self.frames,
            RawValue("L", 0),
            [1] * N_FRAMES,
            path,
            write_threshold=BATCH,
            event_count=True,
            **options,
        )
        self.writer.start()

    def put_until_durable(self, n_frames: int) -> None:
        """Put whole batches, and wait until they are committed."""
        for index in range(self.n_put, n_frames):
            self.frames.put((index, frame(index)))
        self.n_put = n_frames
        while self.writer.durable_events.value < n_frames:
            self.writer.join(0.01)

    def finish(self) -> None:
        self.put_until_durable(N_FRAMES)
        self.writer.join(RESULT_TIMEOUT_S)


@pytest.fixture(params=[False, True], ids=["journal", "swmr"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stream]:
    stream = Stream(tmp_path / "live.rtdc", live=request.param)
    yield stream
    stream.writer.abort()
    stream.writer.join(RESULT_TIMEOUT_S)


def test_every_commit_is_seen_whole(
    stream: Stream, tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "live.rtdc"
    stream.put_until_durable(BATCH)
    with Recording(path, live=True) as recording:
        assert isinstance(recording, LiveRecording)
        for n_frames in (BATCH, 300, 1200, 2300):
            stream.put_until_durable(n_frames)
            assert recording.refresh() == len(recording) == n_frames
            assert set(COMPARED) <= set(recording.features)
            assert set(recording.lengths().values()) == {n_frames}
            for feat in COMPARED:
                values = expected[feat][:n_frames]
                assert np.array_equal(recording[feat][:], values)
                assert np.array_equal(recording[feat][-7:], values[-7:])
                assert np.array_equal(recording[feat][n_frames // 2], values[n_frames // 2])
                wanted = np.array([n_frames - 1, 0, n_frames // 3])
                assert np.array_equal(recording[feat][wanted], values[wanted])
            assert not recording.finished
        with pytest.raises(FeatureNotFoundError, match="peter"):
            recording["peter"]
        stream.finish()
        assert recording.refresh() == N_FRAMES
        assert recording.finished
        assert np.array_equal(recording["image"][:], expected["image"])
        assert recording.metadata["experiment:event count"] == N_FRAMES
    assert sorted(item.name for item in tmp_path.iterdir()) == ["live.rtdc"]


_READER = """
import sys, h5py, hdf5plugin
with h5py.File(sys.argv[1], "r", swmr=True) as h5:
    lengths = {name: dset.shape[0] for name, dset in h5["events"].items()}
    length = min(lengths.values())
    print(length, int(h5["events/area_um"][:length].sum()))
"""


def test_other_programs_read_with_swmr(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    """As many events as are in whole chunks of every feature: scalars have 1000 in a chunk."""
    stream = Stream(tmp_path / "live.rtdc", live=True)
    for n_frames, visible in ((900, 0), (1300, 1000), (2100, 2000)):
        stream.put_until_durable(n_frames)
        done = subprocess.run(
            [sys.executable, "-c", _READER, str(tmp_path / "live.rtdc.part")],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.split() == [str(visible), str(int(expected["area_um"][:visible].sum()))]
    stream.finish()
    with h5py.File(tmp_path / "live.rtdc") as h5:
        assert np.array_equal(h5["events/area_um"], expected["area_um"])


def test_scalar_attributes_after_swmr(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    stream = Stream(tmp_path / "live.rtdc", live=True, scalar_attributes=True)
    stream.finish()
    with h5py.File(tmp_path / "live.rtdc") as h5:
        attributes = dict(h5["events/deform"].attrs)
    assert attributes["max"] == expected["deform"].max()
    assert attributes["mean"] == pytest.approx(expected["deform"].mean())


@pytest.mark.parametrize("n_batches", [1, 2, 3])
def test_attributes_after_a_stream_that_was_short(tmp_path: Path, n_batches: int) -> None:
    """Readers are let in by the first commit, which may still be on its way at the end."""
    waiting: collections.deque[Any] = collections.deque()
    for number in range(n_batches):
        waiting.append(("deform", np.full(2000, float(number))))
        waiting.append(("image", np.full((2000, 40, 40), number, np.uint8)))
        waiting.append(BatchEnd(2000, 2000))
    writer = ChunkWriter(
        tmp_path / "live.rtdc",
        waiting,
        RawValue("L", 0),
        mode="w",
        live=True,
        scalar_attributes=True,
        event_count=True,
        on_batch=lambda *_: None,
        threads=2,
    )
    writer.finished_when_queue_empty()
    writer.run()
    with h5py.File(tmp_path / "live.rtdc") as h5:
        assert h5["events/image"].shape == (2000 * n_batches, 40, 40)
        assert h5["events/deform"].attrs["max"] == n_batches - 1
        assert h5.attrs["experiment:event count"] == 2000 * n_batches


def test_abort_of_a_live_stream_keeps_whole_batches(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "live.rtdc", live=True)
    stream.put_until_durable(5 * BATCH)
    stream.writer.abort()
    stream.writer.join(RESULT_TIMEOUT_S)
    lengths = {len(values) for values in read(tmp_path / "live.rtdc").values()}
    assert lengths == {5 * BATCH}


def test_nothing_to_follow(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="expected a recording or an unfinished one"):
        Recording(tmp_path / "nothing.rtdc", live=True)


def test_torn_unfinished_file_does_not_matter(
    tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    """HDF5's part of the file may be in any state: only chunks that commits name are read."""
    stream = Stream(tmp_path / "live.rtdc")
    for n_events in (100, 200, 300):  # a commit each
        stream.put_until_durable(n_events)
    part = tmp_path / "live.rtdc.part"
    torn = tmp_path / "torn.rtdc"
    content = bytearray(part.read_bytes())
    content[:48] = bytes(48)
    (tmp_path / "torn.rtdc.part").write_bytes(content)
    (tmp_path / "torn.rtdc.journal").write_bytes(
        (tmp_path / "live.rtdc.journal").read_bytes()[:-3] + b"???"
    )
    with Recording(torn, live=True) as recording:
        n_events = len(recording)
        assert n_events == 200
        assert np.array_equal(recording["image"][:], expected["image"][:n_events])
    stream.finish()
