"""Fault 2: a disk that is full is an error with its errno, never a crash or a silent loss."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

#: The limit for files stands in for a full disk: the write fails with EFBIG instead of ENOSPC.
SCRIPT = """
import collections, multiprocessing, queue, resource, signal, sys
import numpy as np
import dcwrite

way, path = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))
noise = np.random.default_rng(0).integers(0, 255, (60, 100, 100), dtype=np.uint8)
n_batches = 10
try:
    if way == "thread":
        events = queue.Queue()
        for frame in range(n_batches):
            events.put((frame, {"deform": np.arange(60.0), "image": noise}))
        dcwrite.QueueWriterThread(
            events, multiprocessing.RawValue("L", 0), [60] * n_batches, path, write_threshold=1
        ).run()
    elif way == "chunks":
        items = [("deform", np.arange(60.0)), ("image", noise)] * n_batches
        writer = dcwrite.ChunkWriter(
            path, collections.deque(items), multiprocessing.RawValue("L", 0)
        )
        writer.may_stop_loop = True
        writer.run()
    else:
        with dcwrite.HDF5Writer(path) as writer:
            if way == "visible":
                writer.h5
            for _ in range(n_batches):
                writer.store_feature_chunk("deform", np.arange(60.0))
                writer.store_feature_chunk("image", noise)
except dcwrite.StorageError as exc:
    print("StorageError", exc.errno)
"""


@pytest.mark.parametrize("way", ["hidden", "visible", "chunks", "thread"])
def test_fault02_full_disk(way: str, tmp_path: Path) -> None:
    path = tmp_path / "out.rtdc"
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, way, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.split() == ["StorageError", str(errno.EFBIG)], result.stderr
    assert result.returncode == 0, result.stderr
