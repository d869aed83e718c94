"""What the tests of the command line read and never change: a recording, and an unfinished one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .command import make_recording


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a small recording; do not change it."""
    return make_recording(tmp_path_factory.mktemp("recording") / "small.rtdc")


_KILLED = """
import os, queue, signal, sys
from multiprocessing import RawValue
import numpy as np
import dcwrite

frames = queue.Queue()
for index in range(400):
    frames.put((index, {"deform": np.array([index / 4.0]), "area_um": np.array([index + 0.5])}))
writer = dcwrite.QueueWriterThread(
    frames, RawValue("L", 0), [1] * 500, sys.argv[1], write_threshold=50
)
writer.start()
while writer.durable_events.value < 400:
    writer.join(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="session")
def killed_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the unfinished recording of a killed program: 400 durable events."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(folder / "m.rtdc")], check=False, timeout=60
    )
    assert done.returncode != 0
    assert sorted(path.name for path in folder.iterdir()) == ["m.rtdc.journal", "m.rtdc.part"]
    return folder


@pytest.fixture
def folder(killed_stream: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder, in the folder of the test."""
    shutil.copytree(killed_stream, tmp_path / "here")
    return tmp_path / "here"
