"""SIGKILL: what was called durable is in the recovered recording, and nothing else."""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import dcwrite
from dcwrite.store.recover import recover
from dcwrite.stream.chunk_writer import WriterQueue

from .harness import (
    Spec,
    Trial,
    compare,
    frames,
    n_expected,
    run_stream,
)
from .small_stream import APPENDED_TO, IN_PLACE

Trials = Callable[..., list[Trial]]


@pytest.mark.parametrize("threshold", [1, 13, 100, 500])
def test_at_random_moments(threshold: int, trials: Trials) -> None:
    found = trials(
        "kills", Spec(n_frames=200 + threshold, threshold=threshold), count=4, seed=threshold
    )
    assert len(found) == 4


def test_of_a_writer_process(trials: Trials) -> None:
    """As a program sees it that has given its frames to a process."""
    found = trials("process_kills", Spec(n_frames=220, threshold=20), count=3, seed=3)
    assert {trial.status for trial in found} <= {0, -signal.SIGKILL}


@pytest.mark.parametrize(
    "spec",
    [
        Spec(n_frames=200, threshold=50),
        Spec(kind="append", n_frames=200, threshold=50),
        Spec(n_frames=200, threshold=20, replace_bytes=50_000),
        Spec(n_frames=200, threshold=50, live=True),
    ],
    ids=["plain", "append", "replaced journal", "live"],
)
def test_at_each_call(spec: Spec, trials: Trials, shim: Path) -> None:
    found = trials("fail_sweep", spec, shim=shim, modes=["kill"], codes=["EIO"], step=5)
    assert max(trial.recovered for trial in found) > 0


@pytest.mark.parametrize("kind", ["gzip", "groups"])
def test_at_some_calls(kind: str, trials: Trials, shim: Path) -> None:
    spec = Spec(kind=kind, n_frames=60, threshold=20)
    trials("fail_sweep", spec, shim=shim, modes=["torn"], codes=["EIO"], step=20)


@pytest.mark.parametrize(
    ("kind", "side"), [*((kind, 50) for kind in IN_PLACE), ("open", 330)], ids=str
)
def test_of_a_program_that_adds_in_place(kind: str, side: int, trials: Trials, shim: Path) -> None:
    """What was in the file before is there, whichever write was the last."""
    spec = Spec(kind=kind, n_frames=140, threshold=40, side=side)
    found = trials("fail_sweep", spec, shim=shim, modes=["kill"], codes=["EIO"], step=3)
    assert len(found) > 8
    assert any(trial.recovered > APPENDED_TO for trial in found)


def test_of_the_recovering_process(trials: Trials, shim: Path) -> None:
    found = trials("recover_kills", Spec(n_frames=200), shim=shim, call=14, step=3)
    assert found[-1].status == 0
    assert found[-1].recovered > 0


@pytest.mark.leaks_allowed(reason="a killed process leaves its semaphores to the tracker")
def test_of_the_writer_process(tmp_path: Path) -> None:
    spec = Spec(n_frames=400, threshold=20)
    counts = [len(events["deform"]) if events else 0 for events in frames(spec)]
    path = tmp_path / "run.rtdc"
    items: queue.Queue[object] = queue.Queue()
    ready = [(index, events) for index, events in enumerate(frames(spec)) if events]
    for item in ready[: len(ready) // 2]:
        items.put(item)
    writer = dcwrite.QueueWriterProcess(
        None,
        items,
        multiprocessing.RawValue("L", 0),
        counts,
        path,
        write_threshold=20,
        stall_timeout=100,
    )
    writer.start()
    half = sum(counts[:180])
    while writer.durable_events.value < half:  # raises the error of a writer that ends
        multiprocessing.connection.wait([writer.sentinel], timeout=0.02)
    seen = writer.durable_events.peek()
    os.kill(writer.pid, signal.SIGKILL)
    with pytest.raises(dcwrite.WriterDiedError) as caught:
        writer.join()
    assert caught.value.exitcode == -signal.SIGKILL
    writer.close()
    report = recover(path.with_name("run.rtdc.part"))
    n_events, wrong = compare(spec, report.path_out)
    assert not wrong
    assert seen <= n_events <= n_expected(spec)


def test_a_journal_left_after_the_renaming(tmp_path: Path) -> None:
    """Its writer was killed between the renaming and the end: it is in nobody's way."""
    spec = Spec(n_frames=60, threshold=20)
    path = tmp_path / "run.rtdc"
    run_stream(spec, path, lambda _n_events: None)
    for name in ("run.rtdc.journal", "run.rtdc.journal.new"):
        (tmp_path / name).write_bytes(b"DCWRITEJ")
    run_stream(spec, path, lambda _n_events: None)
    assert [item.name for item in tmp_path.iterdir()] == ["run.rtdc"]
    assert compare(spec, path) == (n_expected(spec), [])


def test_an_unfinished_file_is_not_overwritten(tmp_path: Path) -> None:
    part = tmp_path / "run.rtdc.part"
    part.write_bytes(b"somebody's data")
    with pytest.raises(dcwrite.StorageError, match="dcwrite recover") as caught:
        run_stream(Spec(n_frames=60), tmp_path / "run.rtdc", lambda _n_events: None)
    assert caught.value.errno == errno.EEXIST
    assert part.read_bytes() == b"somebody's data"


def test_durable_events_count_whole_events(tmp_path: Path) -> None:
    """Items without batches: a feature that has not come yet is waited for."""
    dq = WriterQueue()
    told: list[int] = []
    writer = dcwrite.ChunkWriter(
        tmp_path / "run.rtdc",
        dq,
        multiprocessing.RawValue("L", 0),
        mode="x",
        on_durable=told.append,
    )
    writer._write(("deform", np.arange(5.0)))
    writer._commit_loose()
    assert writer.durable_events == 0
    writer._write(("area_um", np.arange(3.0)))
    writer._write(("deform", np.arange(5.0)))
    writer._commit_loose()
    assert writer.durable_events == 3
    writer.abort_loop()
    writer.run()
