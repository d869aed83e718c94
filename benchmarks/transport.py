"""Compare ways of events from a worker process to the batches of a writer.

One worker, one collector, events of 77 kB (48 scalars, two images, one mask), one per frame. The
worker puts; the collector sorts batches of 500 frames into arrays (what a queue writer does before
it compresses), so the work is the same for all ways. Reported are events/s and the CPU time of
both processes, all their threads included, per event; the rounds are interleaved, the first one
warms up, the median counts. Then the time from `put` to the batch that is handed on, with one
frame per batch and one frame under way.

Run it with ``python benchmarks/transport.py [--rounds N] [--frames N]``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dcwrite.stream.channel import EventQueue
from dcwrite.stream.collector import Collector

SPAWN = multiprocessing.get_context("spawn")
SHAPE = (80, 320)
N_DIFFERENT = 16
BATCH = 40


def make_events(seed: int, n_events: int = 1) -> dict[str, Any]:
    """Return 44 float64 and 4 uint32 scalars, image, image_bg and mask."""
    rng = np.random.default_rng(seed)
    events: dict[str, Any] = {f"scalar{ii:02d}": rng.random(n_events) for ii in range(44)}
    events |= {f"count{ii}": rng.integers(0, 9, n_events, dtype=np.uint32) for ii in range(4)}
    for feat in ("image", "image_bg"):
        events[feat] = rng.integers(0, 255, (n_events, *SHAPE), dtype=np.uint8)
    events["mask"] = rng.random((n_events, *SHAPE)) > 0.5
    return events


def deliver(event_queue: Any, n_frames: int, batch: int, cpu_s: Any, go: Any) -> None:
    """Put all frames; say how much CPU time that took."""
    different = [make_events(seed, batch) for seed in range(max(2, N_DIFFERENT // batch))]
    go.wait()
    begin_s = time.process_time()
    for number, first in enumerate(range(0, n_frames, batch)):
        events = different[number % len(different)]
        if batch == 1:
            event_queue.put((first, events))
        else:
            event_queue.put_batch(first, [1] * batch, events)
    event_queue.close()
    event_queue.join_thread()
    cpu_s.value = time.process_time() - begin_s


def measure(make_queue: Callable[[], Any], n_frames: int, batch: int) -> tuple[float, float]:
    """Return events/s and CPU microseconds per event of one run."""
    event_queue = make_queue()
    cpu_s, go = SPAWN.RawValue("d", 0.0), SPAWN.Barrier(2)
    worker = SPAWN.Process(target=deliver, args=(event_queue, n_frames, batch, cpu_s, go))
    worker.start()
    total = 0.0

    def take(events: dict[str, Any], _n_events: int, _n_frames: int) -> None:
        nonlocal total
        total += float(events["scalar00"].sum())

    collector = Collector(
        event_queue,
        np.ones(n_frames, dtype=np.int32),
        write_threshold=500,
        put_batch=take,
        check=lambda: None,
    )
    go.wait()
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    collector.run()
    wall_s, own_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    worker.join()
    event_queue.close()
    different = [make_events(seed, batch) for seed in range(max(2, N_DIFFERENT // batch))]
    numbers = range(n_frames // batch)
    expected = sum(float(different[ii % len(different)]["scalar00"].sum()) for ii in numbers)
    assert np.isclose(total, expected), "the events are not those that were put"
    return n_frames / wall_s, (own_s + cpu_s.value) / n_frames * 1e6


def deliver_stamped(event_queue: Any, n_frames: int, ready: Any) -> None:
    """Put one frame after the other, each with the time of its put, when the last has arrived."""
    events = make_events(1)
    for frame in range(n_frames):
        ready.recv()
        events["scalar00"][0] = time.perf_counter()
        event_queue.put((frame, events))
    event_queue.close()
    event_queue.join_thread()


def latencies(make_queue: Callable[[], Any], n_frames: int) -> Any:
    """Return microseconds from put to the batch, shape (n_frames,)."""
    event_queue = make_queue()
    ready, acknowledge = SPAWN.Pipe(duplex=False)
    worker = SPAWN.Process(target=deliver_stamped, args=(event_queue, n_frames, ready))
    worker.start()
    found = []

    def take(events: dict[str, Any], _n_events: int, _n_frames: int) -> None:
        found.append(time.perf_counter() - float(events["scalar00"][0]))
        acknowledge.send(None)

    collector = Collector(
        event_queue,
        np.ones(n_frames, dtype=np.int32),
        write_threshold=1,
        put_batch=take,
        check=lambda: None,
    )
    acknowledge.send(None)
    collector.run()
    worker.join()
    event_queue.close()
    return np.array(found[n_frames // 10 :]) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=8000)
    options = parser.parse_args()
    n_frames = options.frames // BATCH * BATCH
    ways: dict[str, tuple[Callable[[], Any], int, int]] = {
        "multiprocessing.Queue, dicts": (lambda: SPAWN.Queue(maxsize=500), 1, n_frames // 4),
        "EventQueue.put": (EventQueue, 1, n_frames),
        f"EventQueue.put_batch, {BATCH} frames": (EventQueue, BATCH, n_frames),
    }
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(1 + options.rounds):
        for name, (make_queue, batch, n_put) in ways.items():
            results[name].append(measure(make_queue, n_put, batch))
    print(f"{'way':<34}{'events/s':>10}{'CPU us/event':>14}{'ratio of CPU':>14}{'least CPU':>11}")
    peer_us = 0.0
    for name, runs in results.items():
        rate = statistics.median(run[0] for run in runs[1:])
        cpu_us = statistics.median(run[1] for run in runs[1:])
        least_us = min(run[1] for run in runs[1:])
        peer_us = peer_us or cpu_us
        print(f"{name:<34}{rate:>10.0f}{cpu_us:>14.1f}{peer_us / cpu_us:>14.1f}{least_us:>11.1f}")
    print()
    print(f"{'put to batch, microseconds':<34}{'median':>10}{'p99':>14}{'max':>14}")
    for name, (make_queue, batch, _) in ways.items():
        if batch == 1:
            found = latencies(make_queue, n_frames // 4)
            p50, p99 = np.percentile(found, [50, 99])
            print(f"{name:<34}{p50:>10.0f}{p99:>14.0f}{found.max():>14.0f}")


if __name__ == "__main__":
    main()
