"""Producers that are faster than the writer, for minutes, and a reader that follows.

Memory stays flat in writer and reader, what is read meanwhile is right, every event arrives.

Run as a script: seconds and an output folder; prints one line of JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - plain h5py needs the Zstandard filter
import numpy as np

import dcwrite

#: Frames that could come, two events each; those that do not are announced as empty.
N_FRAMES = 4_000_000
PRODUCERS = 2
SHAPE = (80, 320)
#: The writer's budget of 256 MiB, the program itself, and what HDF5 and the encoder hold.
MEMORY_BYTES = 512 * 1024**2


def image(frame: int) -> Any:
    """Two images with noise that tell their frame."""
    rng = np.random.default_rng(frame)
    return rng.integers(90, 106, (2, *SHAPE), dtype=np.uint8)


def produce(events: dcwrite.EventQueue, counts: Any, first: int, seconds: float) -> None:
    """Put frames as fast as the queue takes them."""
    numbers = np.frombuffer(counts, dtype=np.int32)
    end = time.monotonic() + seconds
    frame = first
    while time.monotonic() < end and frame < N_FRAMES:
        numbers[frame] = 2
        pixels = image(frame)
        events.put(
            (
                frame,
                {"deform": np.array([frame, frame + 0.5]), "image": pixels, "mask": pixels > 98},
            )
        )
        frame += PRODUCERS
    numbers[frame::PRODUCERS] = 0


def follow(path: Path, tell: Any) -> None:
    """Read the newest events of a recording that is being written, until it is finished."""
    n_looks = n_read = 0
    wrong: list[str] = []
    memory: list[int] = []
    tick = threading.Event()
    while not (path.exists() or path.with_name(path.name + ".journal").exists()):
        tick.wait(0.05)
    with dcwrite.Recording(path, live=True) as recording:
        while not recording.finished:
            before = len(recording)
            length = recording.refresh()
            n_looks += 1
            if length < before or len(set(recording.lengths().values())) > 1:
                wrong.append(f"live: {before}, then {recording.lengths()}")
            first = max(0, length - 100) // 2 * 2
            if length > first:
                deform = recording["deform"][first:length]
                frames = deform[::2].astype(int)
                pixels = recording["image"][first:length]
                masks = recording["mask"][first:length]
                expected = np.concatenate([image(frame) for frame in frames])
                if not np.array_equal(deform, (frames[:, None] + np.array([0.0, 0.5])).ravel()):
                    wrong.append(f"live: deform at {first}")
                if not np.array_equal(pixels, expected) or not np.array_equal(masks, pixels > 98):
                    wrong.append(f"live: image or mask at {first}")
                n_read += length - first
            memory.append(rss_bytes(os.getpid()))
            tick.wait(0.2)
    tell.send((n_looks, n_read, memory, wrong[:5]))


def rss_bytes(pid: int) -> int:
    """Memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def halves(samples: list[int]) -> tuple[tuple[int, int], int]:
    """Median of the first and of the last half, after a fifth to settle; the largest."""
    settled = samples[len(samples) // 5 :]
    half = len(settled) // 2
    parts = [
        sorted(part)[len(part) // 2] if part else 0 for part in (settled[:half], settled[half:])
    ]
    return (parts[0], parts[1]), max(samples, default=0)


def main() -> None:
    """Soak, then look at every event."""
    seconds, folder = float(sys.argv[1]), Path(sys.argv[2])
    context = multiprocessing.get_context("spawn")
    events = dcwrite.EventQueue()
    counts = context.RawArray("i", N_FRAMES)
    np.frombuffer(counts, dtype=np.int32)[:] = -1
    writer = dcwrite.QueueWriterProcess(
        None, events, context.RawValue("L", 0), counts, folder / "run.rtdc", event_count=True
    )
    producers = [
        context.Process(target=produce, args=(events, counts, first, seconds), daemon=True)
        for first in range(PRODUCERS)
    ]
    receiver, sender = context.Pipe(duplex=False)
    reader = context.Process(target=follow, args=(folder / "run.rtdc", sender), daemon=True)
    for process in (writer, reader, *producers):
        process.start()
    sender.close()
    samples: list[int] = []
    while not multiprocessing.connection.wait([writer.sentinel], timeout=0.5):
        samples.append(rss_bytes(writer.pid))
    writer.join()
    for process in producers:
        process.join()
    events.close()
    n_looks, n_read, reader_samples, wrong = receiver.recv()
    reader.join()
    numbers = np.frombuffer(counts, dtype=np.int32)
    frames = np.flatnonzero(numbers)
    with h5py.File(folder / "run.rtdc", "r") as h5:
        deform = h5["events/deform"][:]
        wanted = (frames[:, None] + np.array([0.0, 0.5])).ravel()
        if not np.array_equal(deform, wanted):
            wrong.append(f"deform: {len(deform)} events, expected {len(wanted)}")
        for first in range(0, len(frames), 500):
            part = frames[first : first + 500]
            pixels = np.concatenate([image(int(frame)) for frame in part])
            rows = slice(2 * first, 2 * (first + len(part)))
            if not np.array_equal(h5["events/image"][rows], pixels):
                wrong.append(f"images of frames {part[0]} to {part[-1]}")
            if not np.array_equal(h5["events/mask"][rows] != 0, pixels > 98):
                wrong.append(f"masks of frames {part[0]} to {part[-1]}")
    memory = {"writer": halves(samples), "reader": halves(reader_samples)}
    for who, ((early, late), largest) in memory.items():
        if late > 1.1 * early + 32 * 1024**2 or largest > MEMORY_BYTES:
            wrong.append(f"memory of the {who}: {early}, then {late}, at most {largest} bytes")
    if report := dcwrite.verify(folder / "run.rtdc").findings:
        wrong.append(f"verify finds {report[:3]}")
    size = (folder / "run.rtdc").stat().st_size
    sys.stdout.write(json.dumps({
        "events": len(deform), "size_bytes": size, "memory": memory, "looks": n_looks,
        "read_live": n_read, "wrong": wrong,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
