"""After any end: nothing of ours in shared memory, no files but NAME.rtdc.part and its journal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

SHM = Path("/dev/shm")

#: A program with workers that send through shared memory to a writer process, for ever.
PROGRAM = """
import multiprocessing, os, sys
import numpy as np
import dcwrite

N_FRAMES = 1_000_000


def work(queue, counts, first):
    image = np.zeros((1, 30, 40), dtype=np.uint8)
    for frame in range(first, N_FRAMES, 2):
        counts[frame] = 1
        queue.put((frame, {"deform": np.array([float(frame)]), "image": image}))


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = dcwrite.EventQueue()
    counts = context.RawArray("l", [-1] * N_FRAMES)
    writer = dcwrite.QueueWriterProcess(
        None, queue, context.RawValue("L", 0), counts, sys.argv[1], write_threshold=50
    )
    workers = [
        context.Process(target=work, args=(queue, counts, first), daemon=True) for first in (0, 1)
    ]
    for process in (writer, *workers):
        process.start()
    while not writer.durable_events.value:
        multiprocessing.connection.wait([writer.sentinel], timeout=0.02)
    print(os.getpid(), writer.pid, *[worker.pid for worker in workers], flush=True)
    writer.join()
"""

NAMES = ["the program", "the writer", "a worker", "another worker"]
VICTIMS = ["the program", "the writer", "a worker", "all", "the program, by Ctrl-C"]


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def _mapped(pids: list[int]) -> set[Path]:
    """Files in shared memory that these processes have mapped, and that have a name."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
            found |= {Path(line[line.index(f"{SHM}/") :]) for line in lines if f"{SHM}/" in line}
    return {path for path in found if path.exists()}


@pytest.mark.skipif(not SHM.is_dir(), reason="needs /proc and /dev/shm to look at")
@pytest.mark.leaks_allowed(reason="the orphans of a killed program end a moment after it")
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed(victim: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    folder = tmp_path / "out"
    folder.mkdir()
    program = subprocess.Popen(
        [sys.executable, script, folder / "run.rtdc"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert program.stdout is not None
    pids = [int(pid) for pid in program.stdout.readline().split()]
    try:
        assert len(pids) == 4, program.stderr.read() if program.stderr else ""
        mapped = _mapped(pids)
        if victim.endswith("Ctrl-C"):
            os.killpg(program.pid, signal.SIGINT)
        else:
            chosen = {"the program": pids[:1], "the writer": pids[1:2], "a worker": pids[2:3]}
            for pid in chosen.get(victim, pids):
                os.kill(pid, signal.SIGKILL)
        if victim == "a worker":  # the others wait for its frames: end them as a user would
            os.kill(pids[0], signal.SIGTERM)
        program.wait(60)
        _wait_for(lambda: not any(map(_alive, pids)))
        alive = [name for name, pid in zip(NAMES, pids, strict=True) if _alive(pid)]
        _wait_for(lambda: not any(path.exists() for path in mapped))
    finally:
        for pid in filter(_alive, pids):
            os.kill(pid, signal.SIGKILL)
        program.communicate()
    assert not alive
    assert not [path for path in mapped if path.exists()]
    left = {path.name for path in folder.iterdir()}
    assert left in ({"run.rtdc"}, {"run.rtdc.part", "run.rtdc.journal"}), left


def _wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Processes that nobody can wait for: looked at until they are gone."""
    end = time.monotonic() + timeout_s
    tick = threading.Event()
    while not condition() and time.monotonic() < end:
        tick.wait(0.05)
