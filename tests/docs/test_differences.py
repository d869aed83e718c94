"""Differences from dcnum.write that docs/differences.md lists and that no other test is about."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.stream.chunk_writer import WriterQueue

SPAWN = multiprocessing.get_context("spawn")

FRAME = {"deform": np.array([0.1]), "image": np.zeros((1, 20, 30), np.uint8)}


def thread(path: Path, frames: Any, n_frames: int, **options: Any) -> dcwrite.QueueWriterThread:
    return dcwrite.QueueWriterThread(
        frames, SPAWN.Value("L", 0), [1] * n_frames, path, write_threshold=1, **options
    )


class WatchedQueue:
    """Frames, and what is in the folder when each is asked for."""

    def __init__(self, folder: Path, n_frames: int) -> None:
        self.folder = folder
        self.frames = iter(range(n_frames))
        self.seen: list[list[str]] = []

    def get(self, timeout: float) -> Any:
        self.seen.append(sorted(path.name for path in self.folder.iterdir()))
        for frame in self.frames:
            return frame, FRAME
        raise queue.Empty


def test_a_stream_gets_its_name_at_the_end(tmp_path: Path) -> None:
    frames = WatchedQueue(tmp_path, 2)
    thread(tmp_path / "out.rtdc", frames, 2).run()
    assert frames.seen[1] == ["out.rtdc.journal", "out.rtdc.part"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.rtdc"]


def test_a_stream_in_place_has_its_name_from_the_start(tmp_path: Path) -> None:
    frames = WatchedQueue(tmp_path, 2)
    thread(tmp_path / "out.rtdc", frames, 2, in_place=True).run()
    assert frames.seen[1] == ["out.rtdc"]


@pytest.mark.parametrize("stream_log", [True, False])
def test_the_log_of_a_stream(tmp_path: Path, stream_log: bool) -> None:
    frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
    frames.put((0, FRAME))
    writer = thread(tmp_path / "out.rtdc", frames, 1, stream_log=stream_log)
    writer.dropped_frames.value = 7
    writer.run()
    with dcwrite.Recording(tmp_path / "out.rtdc") as recording:
        if not stream_log:
            assert recording.logs == {}
            return
        lines = recording.logs["dcwrite-stream"]
    assert '  "ended": "complete",' in lines
    assert '  "frames dropped by the caller": 7,' in lines
    assert '  "frames missing": 0,' in lines


@pytest.mark.parametrize("left", ["out.rtdc.part", "out.rtdc.journal"])
def test_an_unfinished_recording_is_not_replaced(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_bytes(b"precious")
    with pytest.raises(dcwrite.StorageError, match="dcwrite recover") as caught:
        thread(tmp_path / "out.rtdc", queue.SimpleQueue(), 1).run()
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == 17
    assert [path.name for path in tmp_path.iterdir()] == [left]
    assert (tmp_path / left).read_bytes() == b"precious"


def test_counts_that_a_process_would_not_see(tmp_path: Path) -> None:
    writer = dcwrite.QueueWriterProcess(
        None, SPAWN.Queue(), SPAWN.Value("L", 0), [1, -1], tmp_path / "out.rtdc"
    )
    with pytest.raises(dcwrite.UsageError, match="expected a shared array"):
        writer.start()
    writer.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_what_is_complete(
    tmp_path: Path, number: signal.Signals
) -> None:
    frames = SPAWN.Queue()
    frames.put((0, FRAME))
    writer = dcwrite.QueueWriterProcess(
        None, frames, SPAWN.Value("L", 0), [1, 1], tmp_path / "out.rtdc", write_threshold=1
    )
    writer.start()
    while not writer.written_frames.value:
        wait([writer.sentinel], timeout=0.01)
    os.kill(writer.pid, number)
    with pytest.raises(dcwrite.AbortedError, match=number.name):
        writer.join()
    writer.close()
    frames.close()
    frames.join_thread()
    with dcwrite.Recording(tmp_path / "out.rtdc") as recording:
        assert recording["deform"][:].tolist() == [0.1]


def test_version_of_the_file_format(tmp_path: Path) -> None:
    with dcwrite.HDF5Writer(tmp_path / "out.rtdc") as writer:
        assert writer.h5.libver[0] == "v110"
        writer.store_feature_chunk("deform", np.zeros(3))
    with h5py.File(tmp_path / "out.rtdc") as h5:
        assert h5.id.get_create_plist().get_version()[0] == 3  # superblock of HDF5 1.10


def test_a_full_writer_queue_makes_the_collector_wait() -> None:
    class NobodyReadsError(Exception):
        """The writer would have had to read something."""

    def check() -> None:
        raise NobodyReadsError

    dq = WriterQueue(max_bytes=1000)
    dq.put(("image", np.zeros(900, np.uint8)), check)
    dq.put(("image", np.zeros(900, np.uint8)), check)  # one array beyond the bound
    with pytest.raises(NobodyReadsError):
        dq.put(("deform", np.zeros(1)), check)
    dq.popleft()
    dq.put(("deform", np.zeros(1)), check)
    assert len(dq) == 2


def test_metadata_of_basins_name_the_program(tmp_path: Path) -> None:
    with dcwrite.HDF5Writer(tmp_path / "in.rtdc") as writer:
        writer.store_feature_chunk("deform", np.zeros(3))
    dcwrite.create_with_basins(tmp_path / "out.rtdc", [tmp_path / "in.rtdc"])
    with dcwrite.Recording(tmp_path / "out.rtdc") as recording:
        (status,) = recording.basins
        assert status.basin is not None
        assert status.basin.description == f"Created by dcwrite {dcwrite.__version__}"
