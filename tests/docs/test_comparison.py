"""What README.md and docs/differences.md say about dcnum.write and dclab's RTDCWriter is so."""

from __future__ import annotations

import collections
import multiprocessing
import queue
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from tests.peer.judge import PEER_REASON

pytest.importorskip("dclab", reason=PEER_REASON)
pytest.importorskip("dcnum", reason=PEER_REASON)

pytestmark = pytest.mark.peer

SPAWN = multiprocessing.get_context("spawn")

#: Writes with a peer, 3 MB of it whole chunks, and is killed then.
KILLED = """
import os, signal, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
if sys.argv[1] == "dcnum":
    from dcnum.write import HDF5Writer
    store = (writer := HDF5Writer(sys.argv[2], mode="x")).store_feature_chunk
else:
    from dclab.rtdc_dataset.writer import RTDCWriter
    store = (writer := RTDCWriter(sys.argv[2], mode="reset")).store_feature
rng = np.random.default_rng(0)
for _ in range(10):
    store("deform", rng.random(400))
    store("image", rng.integers(0, 255, (40, 80, 100), dtype=np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""


def by_dcnum(path: Path, chunks: list[tuple[str, Any]]) -> None:
    from dcnum.write import HDF5Writer

    with HDF5Writer(path, mode="w") as writer:
        for feat, data in chunks:
            writer.store_feature_chunk(feat, data)


def by_dclab(path: Path, chunks: list[tuple[str, Any]]) -> None:
    from dclab.rtdc_dataset.writer import RTDCWriter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with RTDCWriter(path, mode="reset") as writer:
            for feat, data in chunks:
                writer.store_feature(feat, data)


def by_us(path: Path, chunks: list[tuple[str, Any]]) -> None:
    with dcwrite.HDF5Writer(path, mode="w") as writer:
        for feat, data in chunks:
            writer.store_feature_chunk(feat, data)


PEERS = pytest.mark.parametrize("peer", [by_dcnum, by_dclab])


@pytest.mark.parametrize("peer", ["dcnum", "dclab"])
def test_killed_writers(peer: str, tmp_path: Path) -> None:
    """Ours is killed and recovered in docs/howto/recover.md."""
    path = tmp_path / "killed.rtdc"
    ended = subprocess.run([sys.executable, "-c", KILLED, peer, str(path)], check=False)
    assert ended.returncode == -9
    assert path.stat().st_size > 1e6
    with pytest.raises(OSError, match="Unable to synchronously open file"):
        h5py.File(path)


@PEERS
def test_values_that_do_not_fit(peer: Callable[..., None], tmp_path: Path) -> None:
    chunks = [("userdef1", np.array([1, 2])), ("userdef1", np.array([2.9]))]
    peer(tmp_path / "theirs.rtdc", chunks)
    with h5py.File(tmp_path / "theirs.rtdc") as h5:
        assert h5["events/userdef1"][:].tolist() == [1, 2, 2]
    with pytest.raises(dcwrite.EventError, match=r"2\.9"):
        by_us(tmp_path / "ours.rtdc", chunks)


@PEERS
def test_shapes_that_do_not_fit(peer: Callable[..., None], tmp_path: Path) -> None:
    chunks = [("image", np.zeros((3, 4, 4), np.uint8)), ("image", np.ones((3, 1, 4), np.uint8))]
    peer(tmp_path / "theirs.rtdc", chunks)
    with h5py.File(tmp_path / "theirs.rtdc") as h5:
        assert h5["events/image"].shape == (6, 4, 4)
    with pytest.raises(dcwrite.EventError, match=r"\(1, 4\)"):
        by_us(tmp_path / "ours.rtdc", chunks)


class FrameQueue(queue.SimpleQueue[Any]):
    def cancel_join_thread(self) -> None:
        """Dcnum calls it."""


def frames(*items: Any) -> FrameQueue:
    found = FrameQueue()
    for item in items:
        found.put(item)
    return found


def test_an_output_that_exists(tmp_path: Path) -> None:
    from dcnum.write import ChunkWriter

    for module_writer, stays in ((ChunkWriter, False), (dcwrite.ChunkWriter, True)):
        path = tmp_path / f"{module_writer.__module__}.rtdc"
        by_us(path, [("deform", np.zeros(3))])
        before = path.read_bytes()
        items = collections.deque([("deform", np.ones(4))])
        writer = module_writer(path, items, SPAWN.Value("L", 0), mode="w")
        assert (path.read_bytes() == before) == stays
        writer.may_stop_loop = True
        writer.run()
        with h5py.File(path) as h5:
            assert h5["events/deform"][:].tolist() == [1, 1, 1, 1]


def test_a_feature_that_is_missing_once(tmp_path: Path) -> None:
    from dcnum.write import QueueWriterThread

    whole = {"deform": np.array([0.5]), "area_um": np.array([7.0])}
    items = [(0, whole), (1, {"deform": np.array([0.6])}), (2, whole)]
    counts = np.ones(3, dtype=int)
    options = {"write_queue_size": SPAWN.Value("L", 0), "feat_nevents": counts}
    QueueWriterThread(
        event_queue=frames(*items), path_out=tmp_path / "theirs.rtdc", write_threshold=3, **options
    ).run()
    with h5py.File(tmp_path / "theirs.rtdc") as h5:
        assert h5["events/area_um"][:].tolist() == [7, 0, 7]
    writer = dcwrite.QueueWriterThread(
        event_queue=frames(*items), path_out=tmp_path / "ours.rtdc", **options
    )
    with pytest.raises(dcwrite.EventError, match=r"frame 1: .* missing features \['area_um'\]"):
        writer.run()


def test_a_compression_without_its_level(tmp_path: Path) -> None:
    from dcnum.write import HDF5Writer

    arguments = {"feat": "deform", "item_shape": (), "feat_dtype": float}
    with (
        HDF5Writer(tmp_path / "theirs.rtdc", mode="x") as writer,
        pytest.raises(ValueError, match="GZIP"),
    ):
        writer.require_feature(**arguments, ds_kwds={"compression": "gzip"})
    with dcwrite.HDF5Writer(tmp_path / "ours.rtdc", mode="x") as writer:
        dataset, _ = writer.require_feature(**arguments, ds_kwds={"compression": "gzip"})
        assert dataset.compression == "gzip"
