"""A file system that is really full."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import dcwrite

from .harness import Spec, Trial

Trials = Callable[..., list[Trial]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system (a limit for files stands in for it)")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", ["plain", "writer"])
def test_becomes_full(kind: str, small_disk: Path, trials: Trials) -> None:
    spec = Spec(kind=kind, n_frames=300)
    found = trials("full_disk", spec, mount=str(small_disk), count=3, seed=1, size_bytes=400_000)
    assert "StorageError" in {trial.error for trial in found}


def test_new_file_with_basins(small_disk: Path, tmp_path: Path) -> None:
    with dcwrite.HDF5Writer(tmp_path / "in.rtdc", mode="x", threads=1) as writer:
        writer.store_feature_chunk("deform", np.arange(5.0))
        writer.store_log("noise", np.random.default_rng(1).bytes(100_000).hex())
    (small_disk / "ballast").write_bytes(bytes(4 * 1024**2 - 64 * 1024))
    with pytest.raises(dcwrite.StorageError) as caught:
        dcwrite.create_with_basins(small_disk / "out.rtdc", [tmp_path / "in.rtdc"])
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
