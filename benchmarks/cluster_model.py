"""From measured parts to a model of more workers, and how both are printed.

Alone here: what the model assumes: workers do not slow each other down; the stages follow each
other; in a stage everything goes on at the same time, so that the slowest of workers, scheduler
and shared disk decides; the disk has one bandwidth for all machines together.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from measure import machine

__all__ = ["MODEL_FILES", "WORKERS", "Parts", "Whole", "report"]

#: Workers of the model.
WORKERS = (8, 64, 512)
#: Processor time that computing an event takes: segmentation and features in dcnum's pipeline.
PROCESS_S = 5e-3
#: The model's recording: events, ranges; and its files: number, events of each.
MODEL_EVENTS, MODEL_RANGES = 10_000_000, 10_000
MODEL_FILES, MODEL_FILE_EVENTS = 10_000, 10_000
#: Bandwidths of the shared disk, of all machines together [bytes/s].
DISKS = (1e9, 10e9)


@dataclass
class Parts:
    """What was measured; seconds, bytes."""

    shard_event_s: float = 0.0
    shard_range_s: float = 0.0
    piece_event_s: float = 0.0
    shard_event_bytes: float = 0.0
    event_bytes: float = 0.0
    raw_event_bytes: float = 0.0
    join_wall_s: float = 0.0
    recode_wall_s: float = 0.0
    recode_cpu_s: float = 0.0
    recode_alone_s: float = 0.0
    piece_events: int = 0
    join_cpu_s: float = 0.0
    file_s: float = 0.0
    task_s: float = 0.0
    task_wall_s: float = 0.0
    copy_bytes_s: float = 0.0


@dataclass
class Whole:
    """A whole run."""

    what: str
    seconds: float
    computing_s: float = 0.0
    aligning_s: float = 0.0
    joining_s: float = 0.0


# ------------------------------------------------------------------------------------


def slowest(times: dict[str, float]) -> tuple[float, str]:
    """Everything goes on at the same time: what takes longest, and its name."""
    name = max(times, key=lambda key: times[key])
    return times[name], name


def model_recording(parts: Parts, n_workers: int, disk: float) -> tuple[dict[str, float], str]:
    """Seconds of each stage of one large recording, and what limits the longest one."""
    n, ranges = MODEL_EVENTS, MODEL_RANGES
    computing = slowest(
        {
            "computing": (n * (PROCESS_S + parts.shard_event_s) + ranges * parts.shard_range_s)
            / n_workers,
            "scheduler": ranges * parts.task_s,
            "shared disk": 2 * n * parts.shard_event_bytes / disk,  # written, and read again
        }
    )
    aligning = slowest(
        {
            "compression": (n * parts.piece_event_s + ranges * parts.shard_range_s) / n_workers,
            "scheduler": ranges * parts.task_s,
            "shared disk": n * (parts.shard_event_bytes + 2 * parts.event_bytes) / disk,
        }
    )
    joining = slowest(
        {"join": n * parts.join_cpu_s, "shared disk": 2 * n * parts.event_bytes / disk}
    )
    stages = {"computing": computing, "aligning": aligning, "joining": joining}
    name = max(stages, key=lambda key: stages[key][0])
    limit = stages[name][1]
    return {key: seconds for key, (seconds, _) in stages.items()}, f"{limit} ({name})"


def model_files(parts: Parts, n_workers: int, disk: float) -> tuple[float, str]:
    """Seconds of `dcwrite compress` of many files, and what limits it."""
    n = MODEL_FILES * MODEL_FILE_EVENTS
    return slowest(
        {
            "compression": n * parts.file_s / n_workers,
            "scheduler": MODEL_FILES * parts.task_s,
            "shared disk": n * (parts.shard_event_bytes + parts.event_bytes) / disk,
        }
    )


# -- printing -------------------------------------------------------------------------------------


def report(parts: Parts, whole: list[Whole], sleeps: dict[int, tuple[int, float]], n: int) -> str:
    """The section of docs/performance.md."""
    us = 1e6
    about = machine()
    lines = [
        "; ".join(f"{key} {value}" for key, value in about.items()),
        "",
        "| part | measured |",
        "| --- | --- |",
        (
            f"| events: raw, in a shard (Zstandard 1), in the recording (Zstandard 5) | "
            f"{parts.raw_event_bytes / 1e3:.1f}, {parts.shard_event_bytes / 1e3:.1f}, "
            f"{parts.event_bytes / 1e3:.1f} kB |"
        ),
        (
            f"| a worker, a shard sorted, written and checked | {us * parts.shard_event_s:.0f} us "
            f"of processor time per event, and {1e3 * parts.shard_range_s:.0f} ms per range |"
        ),
        (
            f"| a worker, aligning (decode, compress, check) | "
            f"{us * parts.piece_event_s:.0f} us per event |"
        ),
        (
            f"| join of pieces of {parts.piece_events} events, chunks as stored bytes | "
            f"{us * parts.join_wall_s:.1f} us per event "
            f"({parts.event_bytes / parts.join_wall_s / 1e6:.0f} MB/s stored; processor time "
            f"{us * parts.join_cpu_s:.1f} us) |"
        ),
        (
            f"| join, all chunks compressed anew | {us * parts.recode_alone_s:.0f} us per event "
            f"on one thread: {parts.recode_alone_s / parts.join_wall_s:.0f} times as long; "
            f"{us * parts.recode_wall_s:.0f} us on {os.cpu_count()} cores: "
            f"{parts.recode_wall_s / parts.join_wall_s:.0f} times as long; "
            f"{parts.recode_cpu_s / parts.join_cpu_s:.0f} times the processor time |"
        ),
        f"| the bytes of the pieces copied, without HDF5 | {parts.copy_bytes_s / 1e6:.0f} MB/s |",
        (
            f"| scheduler and client | {us * parts.task_s:.0f} us of processor time per task, "
            f"{us * parts.task_wall_s:.0f} us until the next |"
        ),
        f"| `dcwrite compress`, one thread | {us * parts.file_s:.0f} us per event |",
        "",
        f"Whole runs, {n:,} events that cost nothing to compute:",
        "",
        "| | s | events/s | computing, aligning, joining (s) |",
        "| --- | ---: | ---: | --- |",
    ]
    for run in whole:
        stages = (run.computing_s, run.aligning_s, run.joining_s)
        shown = ", ".join(f"{seconds:.1f}" for seconds in stages) if any(stages) else ""
        lines.append(f"| {run.what} | {run.seconds:.1f} | {n / run.seconds:,.0f} | {shown} |")
    if sleeps:
        lines += [
            "",
            "Tasks that sleep for a second, on a real scheduler:",
            "",
            "| threads | tasks | time over the least possible |",
            "| ---: | ---: | ---: |",
            *(f"| {k} | {tasks:,} | {ratio:.2f} |" for k, (tasks, ratio) in sleeps.items()),
        ]
    lines += [
        "",
        (
            f"The model: a recording of {MODEL_EVENTS:,} events in {MODEL_RANGES:,} ranges, "
            f"{1e3 * PROCESS_S:.0f} ms of computing per event; and `dcwrite compress` of "
            f"{MODEL_FILES:,} files of {MODEL_FILE_EVENTS:,} events."
        ),
        "",
        (
            "| workers | shared disk | computing, aligning, joining (min) | gain over 1 worker | "
            "limit | virtual: min, gain | files (min) | limit |"
        ),
        "| ---: | ---: | --- | ---: | --- | --- | ---: | --- |",
    ]
    for disk in DISKS:
        stages, _ = model_recording(parts, 1, disk)
        alone, alone_virtual = sum(stages.values()), stages["computing"]
        for n_workers in WORKERS:
            stages, limit = model_recording(parts, n_workers, disk)
            total = sum(stages.values())
            minutes = ", ".join(f"{seconds / 60:.1f}" for seconds in stages.values())
            virtual = stages["computing"]
            files_s, files_limit = model_files(parts, n_workers, disk)
            lines.append(
                f"| {n_workers} | {disk / 1e9:.0f} GB/s | {minutes} | {alone / total:.0f} | "
                f"{limit} | {virtual / 60:.1f}, {alone_virtual / virtual:.0f} | "
                f"{files_s / 60:.1f} | {files_limit} |"
            )
    return "\n".join(lines)
