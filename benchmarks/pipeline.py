"""dcnum's whole pipeline with its own writer and with dcwrite: time and memory, side by side.

    python benchmarks/pipeline.py                    20,000 frames, three rounds
    python benchmarks/pipeline.py --frames 600 --rounds 1
    python benchmarks/pipeline.py --markdown         the section of docs/performance.md

A simulated raw recording (an image per frame, no features) goes through background, segmentation,
feature extraction and the basins, as ChipStream runs it. Each run has an interpreter of its own;
the ways run in turn. The clock runs from the job to the synced output. CPU time is that of all
processes, imports included; it says more than the clock where other programs run. Memory is that
of all processes, shared parts counted once (the sum of PSS), ten times a second. Afterwards the
features of both outputs have to be equal.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
from measure import machine, sync

import dcwrite
from dcwrite.simulate import SimulatedRecording, SimulationSettings

WAYS = ("dcnum", "dcwrite")
STAGES = ("background", "segmentation", "plumbing", "cleanup")
PROC = Path("/proc")
SAMPLING_PERIOD_S = 0.1
FRAMES_PER_BLOCK = 500


def make_raw(path: Path, n_frames: int) -> None:
    """Write what the camera saw, in a file as dclab's programs and dcnum write it."""
    simulated = SimulatedRecording(SimulationSettings(frames=n_frames, events_per_frame=0.8))
    height, width = simulated.settings.image_shape
    background = np.full((height, width), 150, dtype=np.uint8)
    with dcwrite.HDF5Writer(path, "x", event_count=True) as writer:
        for start in range(0, n_frames, FRAMES_PER_BLOCK):
            frames = np.arange(start, min(start + FRAMES_PER_BLOCK, n_frames))
            images = np.empty((len(frames), height, width), dtype=np.uint8)
            for image, frame in zip(images, frames, strict=True):
                events = simulated.frame_events(int(frame))
                if events is not None:
                    background = events["image_bg"][0]
                image[:] = background if events is None else events["image"][0]
            writer.store_feature_chunk("image", images)
            writer.store_feature_chunk("frame", frames.astype(np.uint64))
            writer.store_feature_chunk("time", frames / simulated.settings.frame_rate_hz)
        writer.store_metadata(simulated.metadata())


def run_here(way: str, path_in: Path, path_out: Path, options: argparse.Namespace) -> None:
    """Run the pipeline in this process, and print what it took as a JSON object."""
    logic = importlib.import_module("dcnum.logic")
    if way == "dcwrite":
        importlib.import_module("dcwrite.interop.dcnum").enable()
    stages = dict.fromkeys(STAGES, 0.0)
    start = last = time.perf_counter()
    job = logic.DCNumPipelineJob(
        path_in=path_in,
        path_out=path_out,
        num_procs=options.cpus,
        basin_strategy=options.strategy,
        feature_kwargs={"haralick": not options.no_haralick},
    )
    runner = logic.DCNumJobRunner(job)
    runner.start()
    while runner.is_alive():
        state = runner.state
        threading.Thread.join(runner, 0.05)
        now = time.perf_counter()
        if state in stages:
            stages[state] += now - last
        last = now
    runner.close(delete_temporary_files=True)
    if runner.state != "done":
        sys.exit(runner.error_tb)
    sync(path_out)
    seconds = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in used),
                "events": runner.event_count,
                "bytes": path_out.stat().st_size,
                "stages": stages,
            }
        )
    )


def family_memory_bytes(pid: int) -> int:
    """Sum of the PSS of a process and of all that have come from it."""
    parents: dict[int, int] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
        except OSError:
            continue
    family = {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    total = 0
    for member in family:
        try:
            for line in (PROC / str(member) / "smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def run_way(
    way: str, path_in: Path, path_out: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Run the pipeline in a process of its own, and watch its memory."""
    command = [sys.executable, __file__, "--run", way, str(path_in), str(path_out)]
    command += ["--cpus", str(options.cpus), "--strategy", options.strategy]
    command += ["--no-haralick"] if options.no_haralick else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak_bytes = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak_bytes
        while not ended.wait(SAMPLING_PERIOD_S):
            peak_bytes = max(peak_bytes, family_memory_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    if (PROC / "self" / "smaps_rollup").exists():
        watcher.start()
    output, _ = process.communicate()
    ended.set()
    if watcher.ident is not None:
        watcher.join()
    if process.returncode:
        sys.exit(f"the pipeline with {way} failed")
    return {**json.loads(output.splitlines()[-1]), "peak_bytes": peak_bytes}


def require_equal(path: Path, path_expected: Path) -> None:
    """Compare the features of two recordings, and those of their internal basins."""
    with h5py.File(path) as h5, h5py.File(path_expected) as h5_expected:
        for group in ("events", "basin_events"):
            expected = h5_expected.get(group, {})
            assert set(h5.get(group, {})) == set(expected)
            for feat, dset in expected.items():
                assert h5[group][feat].shape == dset.shape, feat
                for start in range(0, len(dset), FRAMES_PER_BLOCK):
                    rows = slice(start, start + FRAMES_PER_BLOCK)
                    np.testing.assert_array_equal(h5[group][feat][rows], dset[rows], feat)


def report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> str:
    """The section of docs/performance.md."""

    def median(way: str, *keys: str) -> float:
        values = []
        for value in found[way]:
            for key in keys:
                value = value[key]  # noqa: PLW2901 - one level deeper each time
            values.append(float(value))  # type: ignore[arg-type]
        return statistics.median(values)

    def row(title: str, pattern: str, *keys: str, scale: float = 1.0) -> str:
        theirs, ours = (median(way, *keys) * scale for way in WAYS)
        ratio = f"{ours / theirs:.2f}" if theirs else "-"
        return f"| {title} | {theirs:{pattern}} | {ours:{pattern}} | {ratio} |"

    for runs in found.values():
        for run in runs:
            run["rate"] = run["events"] / run["seconds"]
    ratios = [
        ours["seconds"] / theirs["seconds"]
        for theirs, ours in zip(found["dcnum"], found["dcwrite"], strict=True)
    ]
    where = machine()
    lines = [
        (
            f"{options.frames:,} simulated frames of 80 x 320 pixels, "
            f'{found["dcnum"][0]["events"]:,} events, `basin_strategy="{options.strategy}"`, '
            f"`num_procs={options.cpus}`; medians of {options.rounds} interleaved rounds. dcnum "
            f"{where['dcnum']}, dcwrite {where['dcwrite']}, Python {where['Python']}, HDF5 "
            f"{where['HDF5']}; {where['CPU']}, {where['cores']} cores, {where['memory']}."
        ),
        "",
        "| | dcnum's writer | dcwrite | ratio |",
        "| --- | --- | --- | --- |",
        row("whole pipeline (s)", ".1f", "seconds"),
        row("events per second", ",.0f", "rate"),
        *(row(f"{stage} (s)", ".1f", "stages", stage) for stage in STAGES),
        row("CPU time of all processes (s)", ".1f", "cpu_seconds"),
        row("peak memory of all processes (MiB)", ",.0f", "peak_bytes", scale=1 / 1024**2),
        row("output (MiB)", ".1f", "bytes", scale=1 / 1024**2),
        "",
        f"The ratio of the whole time was {min(ratios):.2f} to {max(ratios):.2f} over the rounds.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--strategy", choices=["drain", "tap"], default="drain")
    parser.add_argument("--no-haralick", action="store_true", help="leave out texture features")
    parser.add_argument("--folder", type=Path, help="where the files are written")
    parser.add_argument("--markdown", action="store_true", help="print nothing but the section")
    parser.add_argument("--run", nargs=3, metavar=("WAY", "IN", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        way, path_in, path_out = options.run
        run_here(way, Path(path_in), Path(path_out), options)
        return
    folder = Path(tempfile.mkdtemp(prefix="dcwrite-pipeline-", dir=options.folder))
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    try:
        raw = folder / "raw.rtdc"
        make_raw(raw, options.frames)
        os.sync()
        for number in range(options.rounds):
            paths = {way: folder / f"{way}.rtdc" for way in WAYS}
            for way, path in paths.items():
                path.unlink(missing_ok=True)
                found[way].append(run_way(way, raw, path, options))
                if not options.markdown:
                    run = found[way][-1]
                    print(
                        f"round {number + 1}, {way}: {run['seconds']:.1f} s, "
                        f"{run['events'] / run['seconds']:.0f} events/s, "
                        f"{run['peak_bytes'] / 1024**2:.0f} MiB",
                        flush=True,
                    )
            require_equal(paths["dcwrite"], paths["dcnum"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(report(found, options))


if __name__ == "__main__":
    main()
