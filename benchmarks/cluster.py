"""A cluster: what an event and a task cost, the join of shards, and a model of more workers.

    python benchmarks/cluster.py                 some 8 minutes
    python benchmarks/cluster.py --quick         small sizes; figures mean nothing
    python benchmarks/cluster.py --markdown      the section of docs/performance.md
    python benchmarks/cluster.py --kills 20      20 runs in each of which a worker is killed

Measured here: processor time of a worker per event and per range (in one thread, so that other
programs on the machine do not count), the join of pieces as stored bytes and compressed anew,
processor time of scheduler and client per task, whole runs with 1 and 2 worker processes, and
tasks that sleep on as many threads as a large cluster has. From these parts follows the model of
`cluster_model.py`.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
from cluster_model import MODEL_FILES, WORKERS, Parts, Whole, report
from distributed import Client, LocalCluster
from recordings import Events, recording

import dcwrite
from dcwrite.cluster import ClusterExecutor, write_recording
from dcwrite.cluster.executor import run_tasks
from dcwrite.cluster.job import Job, common_features
from dcwrite.cluster.pieces import copy_events, sources_of
from dcwrite.cluster.run import Settings, open_run
from dcwrite.cluster.shard import ShardTask, write_shard
from dcwrite.store.hdf5 import open_for_reading
from dcwrite.stream.queue_writer_base import mp_spawn

MIB = 1024**2


@dataclass(frozen=True)
class Stored:
    """Events from a folder of arrays, again and again; one event per frame."""

    folder: Path
    n_stored: int

    def __call__(self, frames: range) -> Iterator[tuple[int, dict[str, Any]]]:
        data = {path.stem: np.load(path, mmap_mode="r") for path in self.folder.glob("*.npy")}
        for frame in frames:
            row = frame % self.n_stored
            yield frame, {feat: array[row : row + 1] for feat, array in data.items()}


def store(folder: Path, events: Events) -> Stored:
    """Put events where worker processes find them."""
    folder.mkdir()
    for feat, data in events.items():
        np.save(folder / f"{feat}.npy", data)
    return Stored(folder, len(events["deform"]))


def processor_time(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of a function, in a thread of its own, and what it returned."""
    found: list[Any] = []

    def run() -> None:
        start = time.thread_time()
        result = work()
        found.extend((time.thread_time() - start, result))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0], found[1]


# -- parts ----------------------------------------------------------------------------------------


class Here:
    """Runs tasks at once."""

    n_workers = 1

    def submit(self, function: Any, /, *args: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


def measure_parts(folder: Path, source: Stored, n_events: int, rounds: int) -> Parts:
    """Shards, pieces and the join, in this process."""
    parts = Parts()
    small, large = n_events // 10, n_events
    times: dict[int, list[float]] = {small: [], large: []}
    for number in range(rounds):
        for size in (small, large):
            run = new_run(folder / f"range-{number}-{size}", size, size)
            task = ShardTask(run, 0, size, source, 64 * MIB)
            seconds, part = processor_time(lambda task=task: write_shard(task))
            times[size].append(seconds)
            parts.shard_event_bytes = part.size_bytes / part.n_events
            run.forget_files()
    fixed, slope = line({size: statistics.median(found) for size, found in times.items()})
    parts.shard_range_s, parts.shard_event_s = fixed, slope
    n_ranges = 40  # pieces as large as those of a large recording
    n_frames = n_ranges * n_events + n_events // 3  # the last range is a part of one
    run = new_run(folder / "joined", n_frames, n_events - 7)  # nothing lands on a chunk's boundary
    job = Job(run, Here(), None)
    shards = job.compute(source, 64 * MIB)
    features = common_features(shards)
    seconds, pieces = processor_time(lambda: job.align(shards, features))
    parts.piece_event_s = seconds / n_frames
    parts.event_bytes = sum(piece.size_bytes for piece in pieces) / n_frames
    sources = sources_of(pieces, "events")
    parts.piece_events = pieces[0].n_events
    measure_join(folder, parts, [piece.path for piece in pieces], sources, features, rounds)
    with dcwrite.HDF5Writer(folder / "file.rtdc", "x", compression="fast", event_count=True) as w:
        for _ in copy_events(w, sources, features, 0, n_events):
            pass
    seconds, _ = processor_time(
        lambda: dcwrite.compress(folder / "file.rtdc", folder / "small.rtdc", threads=1)
    )
    parts.file_s = seconds / n_events
    run.forget_files()
    return parts


def measure_join(
    folder: Path, parts: Parts, paths: list[Path], sources: Any, features: Any, rounds: int
) -> None:
    """Pieces that become one file, in turn: moved, compressed anew on all threads and on one."""
    n_frames = sum(source.n_events for source in sources)
    ways = ("moved", "recoded", "recoded alone", "plain")
    walls: dict[str, list[float]] = {way: [] for way in ways}
    cpus: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, found in walls.items():
            path = folder / "out.rtdc"
            wall, cpu = time.perf_counter(), time.process_time()
            if way == "plain":
                copy_bytes(paths, path)
            else:
                threads = 1 if way == "recoded alone" else None
                with dcwrite.HDF5Writer(path, "x", threads=threads) as writer:
                    if way == "moved":
                        for _ in copy_events(writer, sources, features, 0, n_frames):
                            pass
                    else:
                        recode(writer, sources, features)
            found.append(time.perf_counter() - wall)
            cpus[way].append(time.process_time() - cpu)
            path.unlink()
    parts.join_wall_s = statistics.median(walls["moved"]) / n_frames
    parts.recode_wall_s = statistics.median(walls["recoded"]) / n_frames
    parts.recode_alone_s = statistics.median(walls["recoded alone"]) / n_frames
    parts.join_cpu_s = statistics.median(cpus["moved"]) / n_frames
    parts.recode_cpu_s = statistics.median(cpus["recoded"]) / n_frames
    parts.copy_bytes_s = parts.event_bytes * n_frames / statistics.median(walls["plain"])


def new_run(folder: Path, n_frames: int, size: int) -> Any:
    settings = Settings(n_frames, size, True, 5, True, False, "benchmark")
    return open_run(folder, settings, frames_per_range=size, n_workers=1, resume=False)


def recode(writer: Any, sources: Any, features: Any) -> None:
    """Join with every chunk compressed anew, on all threads of the writer."""
    for source in sources:
        with open_for_reading(source.path) as h5:
            for feat in features:
                writer.store_feature_rows(feat, h5["events"][feat], recode=True)


def copy_bytes(paths: list[Path], path_out: Path) -> None:
    """What no join can beat: the bytes alone."""
    with path_out.open("wb") as out:
        for path in paths:
            out.write(path.read_bytes())


def line(points: dict[int, float]) -> tuple[float, float]:
    """Constant and slope of the line through two points."""
    (small, low), (large, high) = sorted(points.items())
    slope = (high - low) / (large - small)
    return max(0.0, low - slope * small), slope


# -- the cluster ----------------------------------------------------------------------------------


@contextmanager
def local_cluster(folder: Path, n_workers: int, threads: int = 1) -> Iterator[Any]:
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "200 s"}),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            local_directory=folder / "dask",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(n_workers)
        yield client


def nothing(_number: int) -> None:
    """A task that takes no time."""


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def measure_tasks(folder: Path, parts: Parts, n_tasks: int) -> None:
    """Processor time of scheduler and client, which are both in this process, per task."""
    with local_cluster(folder, 1, threads=4) as client:
        executor = ClusterExecutor(client)
        for _ in run_tasks(executor, nothing, range(50)):
            pass
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in run_tasks(executor, nothing, range(n_tasks)):
            pass
        parts.task_wall_s = (time.perf_counter() - wall) / n_tasks
        parts.task_s = (time.process_time() - cpu) / n_tasks


def measure_sleep(folder: Path, n_threads: int, n_tasks: int, seconds: float) -> float:
    """Wall time of tasks that sleep, over the time that they would take without a scheduler."""
    n_workers = 2
    with local_cluster(folder, n_workers, threads=n_threads // n_workers) as client:
        executor = ClusterExecutor(client)
        for _ in run_tasks(executor, sleep, [0.01] * n_threads):
            pass
        start = time.perf_counter()
        for _ in run_tasks(executor, sleep, [seconds] * n_tasks):
            pass
        return (time.perf_counter() - start) / (-(-n_tasks // n_threads) * seconds)


def measure_whole(folder: Path, source: Stored, n_frames: int, size: int) -> list[Whole]:
    """The same recording on one machine without a cluster, and with 1 and 2 workers."""
    runs = []
    for threads in (1, 2):
        seconds = on_one_machine(folder / "one.rtdc", source, n_frames, threads)
        runs.append(Whole(f"`QueueWriterThread`, {threads} encoder threads", seconds))
    for n_workers in (1, 2):
        with local_cluster(folder, n_workers) as client:
            write_recording(folder / "warm.rtdc", n_workers, source, client, frames_per_range=1)
            (folder / "warm.rtdc").unlink()
            start = time.perf_counter()
            found = write_recording(
                folder / "out.rtdc", n_frames, source, client, frames_per_range=size
            )
            seconds = time.perf_counter() - start
        same_files(folder / "out.rtdc", folder / "one.rtdc")
        (folder / "out.rtdc").unlink()
        stages = (found.computing_s, found.aligning_s, found.joining_s)
        runs.append(Whole(f"cluster, {n_workers} workers of 1 thread", seconds, *stages))
    (folder / "one.rtdc").unlink()
    return runs


def on_one_machine(path: Path, source: Stored, n_frames: int, threads: int) -> float:
    path.unlink(missing_ok=True)
    events: queue.Queue[Any] = queue.Queue(200)
    counts = np.ones(n_frames, dtype=np.int64)
    size = mp_spawn.RawValue("L", 0)
    start = time.perf_counter()
    writer = dcwrite.QueueWriterThread(events, size, counts, path, threads=threads)
    writer.start()
    for item in source(range(n_frames)):
        events.put(item)
    writer.join()
    return time.perf_counter() - start


def same_files(ours: Path, theirs: Path) -> None:
    """All events equal, or the benchmark is void."""
    with dcwrite.Recording(ours) as one, dcwrite.Recording(theirs) as other:
        if one.features != other.features or len(one) != len(other):
            raise AssertionError("the recordings differ")
        for name in one.features:
            if not np.array_equal(one[name][:], other[name][:], equal_nan=True):
                raise AssertionError(f"feature {name} differs")


def require_right(path: Path, expected: Path) -> None:
    """The same events, every chunk readable, and nothing beside it."""
    same_files(path, expected)
    if dcwrite.verify(path).exit_code:
        raise AssertionError("verify has findings")
    left = [found.name for found in path.parent.iterdir() if path.stem in found.name]
    if left != [path.name]:
        raise AssertionError(f"left behind: {left}")


# -- kills ----------------------------------------------------------------------------------------


def kills(folder: Path, n_runs: int, seed: int) -> int:
    """Number of wrong recordings; in each run a random worker is killed at a random moment."""
    source = store(folder / "events", recording(300))
    n_frames, wrong = 900, 0
    on_one_machine(folder / "one.rtdc", source, n_frames, 2)
    rng = random.Random(seed)
    with local_cluster(folder, 2) as client:
        usual = 0.0
        for _ in range(2):  # the second one does not import anything
            (folder / "out.rtdc").unlink(missing_ok=True)
            start = time.perf_counter()
            write_recording(folder / "out.rtdc", n_frames, source, client, frames_per_range=90)
            usual = time.perf_counter() - start
        for number in range(n_runs):
            (folder / "out.rtdc").unlink(missing_ok=True)
            after = rng.uniform(0, usual)
            killed: list[int] = []

            def kill(killed: list[int] = killed) -> None:
                pids = list(client.run(os.getpid).values())
                killed.append(rng.choice(pids))
                os.kill(killed[0], signal.SIGKILL)

            timer = threading.Timer(after, kill)
            timer.start()
            start = time.perf_counter()
            try:
                write_recording(folder / "out.rtdc", n_frames, source, client, frames_per_range=90)
                seconds = time.perf_counter() - start
                timer.join()
                require_right(folder / "out.rtdc", folder / "one.rtdc")
                text = "right"
            except Exception as exc:  # noqa: BLE001 - counted
                wrong += 1
                seconds, text = time.perf_counter() - start, f"WRONG: {exc!r}"
            print(
                f"{number:3}: process {killed} killed after {after:5.2f} s, {seconds:5.1f} s, "
                f"{text}", flush=True,
            )  # fmt: skip
            client.wait_for_workers(2)
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Run; 1 if a run with a killed worker was wrong."""
    parser = argparse.ArgumentParser(description="What a cluster costs.")
    parser.add_argument("--quick", action="store_true", help="small sizes; figures mean nothing")
    parser.add_argument("--markdown", action="store_true", help="print the section for the docs")
    parser.add_argument("--kills", type=int, metavar="N", help="only N runs with a killed worker")
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dcwrite-bench-", dir=options.folder) as name:
        folder = Path(name)
        if options.kills:
            return int(kills(folder, options.kills, options.seed) > 0)
        n_events, rounds = (100, 1) if options.quick else (1000, 5)
        events = recording(n_events)
        source = store(folder / "events", events)
        parts = measure_parts(folder, source, n_events, rounds)
        parts = replace(
            parts, raw_event_bytes=sum(data.nbytes for data in events.values()) / n_events
        )
        measure_tasks(folder, parts, 50 if options.quick else 2000)
        n_frames = 200 if options.quick else 10_000
        whole = measure_whole(folder, source, n_frames, n_frames // 10)
        sleeps = {}
        for n_threads in (4,) if options.quick else WORKERS:
            n_tasks = 8 if options.quick else min(20 * n_threads, MODEL_FILES)
            seconds = 0.1 if options.quick else 1.0
            sleeps[n_threads] = n_tasks, measure_sleep(folder, n_threads, n_tasks, seconds)
        print(report(parts, whole, sleeps, n_frames))
    if options.quick:
        print("\n--quick: small sizes; these figures mean nothing", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
