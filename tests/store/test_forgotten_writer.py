"""A writer that nobody closes still writes what it was given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import dcwrite

_PROGRAM = """
import sys
import numpy as np
import dcwrite
writer = dcwrite.HDF5Writer(sys.argv[1], mode="x")
for number in range(7):
    writer.store_feature_chunk("deform", np.arange(300.0) + number)
    writer.store_feature_chunk("image", np.full((300, 20, 20), number, dtype="u1"))
if sys.argv[2] == "error":
    raise ValueError("the program's own")
"""


@pytest.mark.parametrize("ending", ["end", "error"])
def test_rows_in_memory_are_written_when_the_program_ends(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "forgotten.rtdc"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(path), ending],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == (1 if ending == "error" else 0), done.stderr
    with h5py.File(path) as h5:
        assert h5["events/deform"].shape == (2100,)
        assert h5["events/image"].shape == (2100, 20, 20)
        assert np.array_equal(h5["events/deform"][1800:], np.arange(300.0) + 6)
        assert (h5["events/image"][-1] == 6).all()


def test_rows_in_memory_are_written_when_the_writer_is_garbage(tmp_path: Path) -> None:
    path = tmp_path / "forgotten.rtdc"
    writer = dcwrite.HDF5Writer(path, mode="x")
    writer.store_feature_chunk("deform", np.arange(5.0))
    del writer
    with h5py.File(path) as h5:
        assert np.array_equal(h5["events/deform"], np.arange(5.0))
