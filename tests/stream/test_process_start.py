"""A writer process that never begins: its parent says why."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcwrite import QueueWriterProcess, WriterDiedError

SPAWN = multiprocessing.get_context("spawn")


@pytest.mark.skipif(os.name == "nt", reason="Windows says at once that there is no such program")
def test_the_system_cannot_execute_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`multiprocessing` drops what the system said; only exit code 255 is left."""
    multiprocessing.resource_tracker.ensure_running()  # it needs an interpreter, too
    missing = str(tmp_path / "no-python")
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(missing))
    frames, size = SPAWN.Queue(), SPAWN.Value("L", 9)
    writer = QueueWriterProcess(None, frames, size, [1, 1], tmp_path / "x.rtdc")
    writer.start()
    with pytest.raises(WriterDiedError) as caught:
        writer.join()
    message = str(caught.value)
    assert "ended with exit code 255 before it began" in message
    assert f"the system could not execute {missing!r}" in message
    assert "os.environ" in message
    assert caught.value.exitcode == 255
    assert size.value == 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(WriterDiedError):
        _ = writer.written_frames.value
    writer.close()
    frames.close()


UNGUARDED = """
import multiprocessing
from dcwrite import QueueWriterProcess, WriterDiedError

context = multiprocessing.get_context("spawn")
frames = context.Queue()
writer = QueueWriterProcess(None, frames, context.Value("L", 0), [1], "x.rtdc")
writer.start()
try:
    writer.join()
except WriterDiedError as error:
    print(error)
"""


def test_a_program_without_a_guard(tmp_path: Path) -> None:
    """The usual mistake with spawned processes."""
    script = tmp_path / "program.py"
    script.write_text(UNGUARDED)
    result = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "ended with exit code 1 before it began" in result.stdout
    assert "`if __name__ == '__main__':`" in result.stdout
    assert "bootstrapping phase" in result.stderr
    assert not (tmp_path / "x.rtdc").exists()
