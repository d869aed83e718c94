"""Whole files: what a killed run left goes with the next one, what others are writing stays."""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dcwrite
from dcwrite import ChunkWriter, StorageError
from dcwrite.store.whole_file import whole_file
from dcwrite.tools.progress import Progress

from .files import make_recording

_KILLED = """
import os, signal, sys
from dcwrite.store.whole_file import whole_file
with whole_file(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    temporary.with_name(temporary.name + ".damaged").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="on Windows they are left: processes cannot be asked")
def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out.rtdc"
    killed = subprocess.run([sys.executable, "-c", _KILLED, out], check=False)
    assert killed.returncode == -signal.SIGKILL
    stale = sorted(item.name for item in tmp_path.iterdir())
    assert [name[:10] for name in stale] == [".out.rtdc.", ".out.rtdc."]
    others = [
        f".other.rtdc{stale[0].removeprefix('.out.rtdc')}",  # of another output
        f".out.rtdc.0badcafe{stale[0][18:]}",  # of another machine
        ".out.rtdc.tmp",
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    with whole_file(out) as mine:
        mine.write_bytes(b"whole")
        with whole_file(out) as second:  # of a process that lives: this one
            second.write_bytes(b"first")
            assert mine.exists()
        assert out.read_bytes() == b"first"
        out.unlink()
    assert out.read_bytes() == b"whole"
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([*others, "out.rtdc"])


_TOO_LARGE = """
import resource, sys, dcwrite
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
work = dcwrite.copy_recording if sys.argv[1] == "copy" else dcwrite.split
try:
    work(*sys.argv[2:])
except dcwrite.StorageError as exc:
    print(exc.filename)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit for the size of a file")
@pytest.mark.parametrize(
    ("tool", "out", "named"),
    [("copy", "out.rtdc", "out.rtdc"), ("split", "parts", "in_0001.rtdc")],
)
def test_an_error_names_the_output(tmp_path: Path, tool: str, out: str, named: str) -> None:
    path_in = make_recording(tmp_path / "in.rtdc")
    assert path_in.stat().st_size > 10_000
    command = [sys.executable, "-c", _TOO_LARGE, tool, path_in, tmp_path / out]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()).name == named
    assert [path.name for path in tmp_path.iterdir()] == ["in.rtdc"]


def refuse(progress: Progress) -> None:
    """What is called when some work was done."""
    assert not progress.current, progress


TOOLS: dict[str, Callable[[Path, Path], object]] = {
    "compress": lambda path, out: dcwrite.compress(path, out, progress=refuse),
    "copy": lambda path, out: dcwrite.copy_recording(path, out, progress=refuse),
    "join": lambda path, out: dcwrite.join([path, path], out, progress=refuse),
    "link": lambda path, out: dcwrite.link(out, [path]),
    "plot": lambda path, out: dcwrite.plot(path, out, progress=refuse),
    "recover": dcwrite.recover,
    "split": lambda path, out: dcwrite.split(path, out.parent / "parts", progress=refuse),
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_link_that_leads_nowhere_is_found_before_the_work(tmp_path: Path, name: str) -> None:
    path = make_recording(tmp_path / "in.rtdc")
    out = tmp_path / ("out.png" if name == "plot" else "out.rtdc")
    (tmp_path / "parts").mkdir()
    for link in (out, tmp_path / "parts" / "in_0001.rtdc"):
        link.symlink_to(tmp_path / "nowhere.rtdc")
    with pytest.raises(StorageError, match=r"exists? already .*overwrite=True"):
        TOOLS[name](path, out)
    assert out.is_symlink()
    assert not (tmp_path / "nowhere.rtdc").exists()


def test_a_link_that_leads_nowhere_may_be_replaced(tmp_path: Path) -> None:
    path, out = make_recording(tmp_path / "in.rtdc"), tmp_path / "out.rtdc"
    out.symlink_to(tmp_path / "nowhere.rtdc")
    dcwrite.copy_recording(path, out, overwrite=True)
    assert out.is_file()
    assert not out.is_symlink()
    assert not (tmp_path / "nowhere.rtdc").exists()


@pytest.mark.parametrize("mode", ["a", "x"])
def test_a_stream_to_a_link_that_leads_nowhere(tmp_path: Path, mode: str) -> None:
    out = tmp_path / "out.rtdc"
    out.symlink_to(tmp_path / "nowhere.rtdc")
    items = collections.deque([("deform", np.ones(3))])
    with pytest.raises(StorageError, match="a link that leads nowhere; use another name"):
        ChunkWriter(out, items, multiprocessing.Value("L", 0), mode=mode)
    assert [item.name for item in tmp_path.iterdir()] == ["out.rtdc"]
