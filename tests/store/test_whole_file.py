"""Whole files: what a killed run left goes with the next one, what others are writing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dcwrite.store.whole_file import whole_file

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
