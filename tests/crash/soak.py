"""Producers that are faster than the writer, for minutes: memory stays flat, every event arrives.

Run as a script: seconds and an output folder; prints one line of JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import sys
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


def rss_bytes(pid: int) -> int:
    """Memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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
    for process in (writer, *producers):
        process.start()
    samples: list[int] = []
    while not multiprocessing.connection.wait([writer.sentinel], timeout=0.5):
        samples.append(rss_bytes(writer.pid))
    writer.join()
    for process in producers:
        process.join()
    events.close()
    wrong = []
    numbers = np.frombuffer(counts, dtype=np.int32)
    frames = np.flatnonzero(numbers)
    with h5py.File(folder / "run.rtdc", "r") as h5:
        deform = h5["events/deform"][:]
        wanted = (frames[:, None] + np.array([0.0, 0.5])).ravel()
        if not np.array_equal(deform, wanted):
            wrong.append(f"deform: {len(deform)} events, expected {len(wanted)}")
        for number in range(0, len(frames), 50):
            found = h5["events/image"][2 * number : 2 * number + 2]
            if not np.array_equal(found, image(int(frames[number]))):
                wrong.append(f"image of frame {frames[number]}")
    settled = samples[len(samples) // 5 :]
    half = len(settled) // 2
    first_half, last_half = max(settled[:half], default=0), max(settled[half:], default=0)
    if last_half > 1.1 * first_half + 32 * 1024**2:
        wrong.append(f"memory grew from {first_half} to {last_half} bytes")
    if report := dcwrite.verify(folder / "run.rtdc").findings:
        wrong.append(f"verify finds {report[:3]}")
    size = (folder / "run.rtdc").stat().st_size
    sys.stdout.write(json.dumps({
        "events": len(deform), "size_bytes": size, "first_half_bytes": first_half,
        "last_half_bytes": last_half, "wrong": wrong,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
