"""Numbers of threads that are none: refused by every function before it does anything."""

from __future__ import annotations

import collections
import multiprocessing
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite import UsageError

from .files import make_recording


def copy_features(path: Path, out: Path, threads: Any) -> None:
    with h5py.File(path) as source, h5py.File(out, "w", driver="core", backing_store=False) as h5:
        dcwrite.copy_features(source, h5, ["deform"], threads=threads)


FUNCTIONS: dict[str, Callable[[Path, Path, Any], object]] = {
    "compress": lambda path, out, n: dcwrite.compress(path, out, threads=n),
    "compress_many": lambda path, out, n: dcwrite.compress_many([path], out, threads=n),
    "copy_features": copy_features,
    "copy_many": lambda path, out, n: dcwrite.copy_many([path], out, threads=n),
    "copy_recording": lambda path, out, n: dcwrite.copy_recording(path, out, threads=n),
    "join": lambda path, out, n: dcwrite.join([path, path], out, threads=n),
    "split": lambda path, out, n: dcwrite.split(path, out, threads=n),
    "split_many": lambda path, out, n: dcwrite.split_many([path], out, threads=n),
    "verify": lambda path, _, n: dcwrite.verify(path, threads=n),
    "virtual_recording": lambda path, out, n: dcwrite.virtual_recording(out, [path], threads=n),
    "HDF5Writer": lambda _, out, n: dcwrite.HDF5Writer(out, threads=n),
    "ChunkWriter": lambda _, out, n: dcwrite.ChunkWriter(
        out, collections.deque(), multiprocessing.Value("L", 0), threads=n
    ),
    "QueueWriterThread": lambda _, out, n: dcwrite.QueueWriterThread(
        queue.Queue(), multiprocessing.Value("L", 0), np.array([1]), out, threads=n
    ),
    "QueueWriterProcess": lambda _, out, n: dcwrite.QueueWriterProcess(
        None,
        multiprocessing.get_context("spawn").Queue(),
        multiprocessing.get_context("spawn").RawValue("L", 0),
        multiprocessing.get_context("spawn").RawArray("i", [1]),
        out,
        threads=n,
    ),
}


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_refused(tmp_path: Path, name: str, threads: Any) -> None:
    path = make_recording(tmp_path / "in.rtdc")
    with pytest.raises(UsageError, match="threads: expected a whole number from 1, got"):
        FUNCTIONS[name](path, tmp_path / "out", threads)
    assert [item.name for item in tmp_path.iterdir()] == ["in.rtdc"]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    path = make_recording(tmp_path / "in.rtdc")
    assert dcwrite.verify(path, threads=np.int64(2)).exit_code == 0  # type: ignore[arg-type]
