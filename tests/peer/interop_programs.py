"""What the tests of `dcwrite.interop.dcnum` run in other processes, and recordings for them."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import shutil
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import dcwrite
from dcwrite.simulate import SimulatedRecording, SimulationSettings
from tests.peer.judge import assert_same_content

__all__ = [
    "TIMED_LOGS",
    "assert_same_recording",
    "owner_of_writer",
    "put_owner_of_writer",
    "raw_recording",
    "run_pipeline",
]


#: dcnum's logs of a run, whose names hold the time.
TIMED_LOGS = ("dcnum-job-", "dcnum-log-")


def owner_of_writer() -> str:
    """Whose HDF5Writer dcnum's pipeline uses here."""
    return str(importlib.import_module("dcnum.logic.ctrl").HDF5Writer.__module__)


def put_owner_of_writer(answers: Any, depth: int = 0) -> None:
    """Answer from a process, and from one that it has spawned."""
    answers.put(owner_of_writer())
    if depth:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=put_owner_of_writer, args=(answers, depth - 1))
        process.start()
        process.join()


def raw_recording(path: Path, frames: int = 150) -> Path:
    """Write what a camera saw: an image of each frame, with and without cells; no features."""
    simulated = SimulatedRecording(
        SimulationSettings(frames=frames, events_per_frame=0.8, image_shape=(64, 160), seed=5)
    )
    found = {i: events for i in range(frames) if (events := simulated.frame_events(i))}
    background = next(iter(found.values()))["image_bg"][0]
    images = [found[i]["image"][0] if i in found else background for i in range(frames)]
    with dcwrite.HDF5Writer(path, "x", event_count=True) as writer:
        writer.store_feature_chunk("image", np.array(images))
        writer.store_feature_chunk("frame", np.arange(frames, dtype=np.uint64))
        writer.store_feature_chunk("time", np.arange(frames) / 3000)
        writer.store_metadata(simulated.metadata())
        writer.store_log("camera", ["first line", "second line"])
    return path


def run_pipeline(path_in: Path, path_out: Path, **options: Any) -> Any:
    """Run dcnum's pipeline to its end, with options that take little time.

    Returns
    -------
    DCNumJobRunner
        Closed; with `state`, `error_tb`, `event_count`.
    """
    logic = importlib.import_module("dcnum.logic")
    suffix = options.pop("tmp_suffix", None)
    settings = {
        "num_procs": 2,
        "debug": True,
        "feature_kwargs": {"haralick": False},
        "background_kwargs": {"kernel_size": 20} if "background_code" not in options else {},
        **options,
    }
    job = logic.DCNumPipelineJob(path_in=path_in, path_out=path_out, **settings)
    runner = logic.DCNumJobRunner(job, tmp_suffix=suffix)
    runner.start()  # in a thread, as programs use it: `run` by itself would raise
    threading.Thread.join(runner)
    runner.close(delete_temporary_files=runner.state == "done")
    # dcnum closes it before the last records have come, and those open the file once more
    runner._log_file_handler.close()
    return runner


def assert_same_recording(path: Path, path_expected: Path, folder: Path) -> None:
    """Compare all of two recordings; logs of dcnum's run but for what depends on the run."""
    copies = []
    for name, source in (("ours", path), ("theirs", path_expected)):
        copy = shutil.copyfile(source, folder / f"compared_{name}.rtdc")
        copies.append(copy)
        with h5py.File(copy, "a") as h5:
            (job,) = (log for log in h5["logs"] if log.startswith(TIMED_LOGS[0]))
            text = json.loads(b"\n".join(h5["logs"][job][:]))
            assert text["job"].pop("path_out").endswith(source.name)
            text["job"].pop("debug"), text["job"].pop("log_level")
            h5["compared"] = json.dumps(text, sort_keys=True)
            (log,) = (log for log in h5["logs"] if log.startswith(TIMED_LOGS[1]))
            lines = h5["logs"][log][:].tolist()
            assert any(b"Run duration" in line for line in lines)
            assert not any(b"ERROR" in line for line in lines)
            del h5["logs"][job], h5["logs"][log]
    # attributes that are lost, and copied summaries that are not true, are faults of dcnum's copy
    kept = {"software", "min", "max", "mean"}
    kept |= {"dcnum ppid background", "dcnum ppid generation"}
    assert_same_content(copies[0], copies[1], ignored_attributes=kept)
