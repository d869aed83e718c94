"""Rows 10 and 13: long recordings, and how many cores one writer could keep busy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import Context, Row, in_turn
from producers import Crew, Task, new_counts
from recordings import nbytes, recording, scalars, without
from storing import chunks_of, codec_alone
from streaming import N_PRODUCERS, write_batches, write_stream

from dcwrite import QueueWriterThread
from dcwrite.stream.channel import EventQueue

__all__ = ["lengths", "serial_fraction"]


def lengths(context: Context) -> Iterator[Row]:
    """Row 10: events per second must not depend on how many come."""
    pairs = ((10**4, 200), (10**5, 400), (10**6, 800))
    short, middle, long = sizes = [context.size(full, quick) for full, quick in pairs]
    # a machine that gets faster or slower does so for all lengths of a round; more of the short
    # ones, in which a moment counts
    n_short = context.size(3, 1)
    round_ = [short] * n_short + [middle, long, middle] + [short] * n_short
    events = scalars(2000, 8)
    jobs = round_ * context.rounds
    tasks = [
        Task(EventQueue(producers=N_PRODUCERS), new_counts(n_frames))
        for n_frames in (short, *jobs)
    ]
    rates: dict[int, list[list[float]]] = {
        n_frames: [[] for _ in range(context.rounds)] for n_frames in sizes
    }
    with (
        context.scratch(in_memory=True) as folder,
        Crew(folder, events, tasks, N_PRODUCERS) as crew,
    ):
        write_stream(QueueWriterThread, folder / "out.rtdc", crew, tasks, 0)
        for number, n_frames in enumerate(jobs):
            seconds = write_stream(QueueWriterThread, folder / "out.rtdc", crew, tasks, number + 1)
            rates[n_frames][number // len(round_)].append(n_frames / seconds)
    by_round = {n_frames: list(map(statistics.median, found)) for n_frames, found in rates.items()}
    for n_frames in sizes:
        yield Row(
            "10",
            f"EventQueue to file, 8 scalars, {n_frames:,} events",
            "events/s",
            ours=statistics.median(by_round[n_frames]),
            limited_by="writer's Python per event",
            samples={"ours": [rate for found in rates[n_frames] for rate in found]},
        )
    parts = {
        n_frames: [rate / of_long for rate, of_long in zip(found, by_round[long], strict=True)]
        for n_frames, found in by_round.items()
    }
    medians = list(map(statistics.median, parts.values()))
    flatness = min(medians) / max(medians)
    yield Row(
        "10",
        "slowest of these lengths as compared with the fastest",
        "",
        ours=flatness,
        ratio=flatness,
        at_least=0.85,
        limited_by="start and end of the shortest",
        note=f"medians of {context.rounds} rounds, as parts of the longest of the round",
        samples={f"{n_frames:,} events": found for n_frames, found in parts.items()},
    )
    yield from many_chunks(context)


def many_chunks(context: Context) -> Iterator[Row]:
    """Row 10: the hundred-thousandth chunk must not take longer to write than the first."""
    sizes = [context.size(full, quick) for full, quick in ((10_000, 50), (100_000, 100))]
    rates: dict[int, list[float]] = {n_chunks: [] for n_chunks in sizes}
    events = {"deform": scalars(10 * sizes[-1])["deform"]}
    with context.scratch(in_memory=True) as folder:
        for n_chunks in sizes * context.size(3, 1):
            part = {feat: data[: 10 * n_chunks] for feat, data in events.items()}
            kwds = {"chunks": (10,)}
            seconds = write_batches(folder / "out.rtdc", part, ds_kwds=kwds, threads=1)
            rates[n_chunks].append(n_chunks / seconds)
    medians = {n_chunks: statistics.median(values) for n_chunks, values in rates.items()}
    flatness = medians[sizes[1]] / medians[sizes[0]]
    yield Row(
        "10",
        f"stream of one feature in {sizes[1]:,} chunks; peer: in {sizes[0]:,}",
        "chunks/s",
        ours=medians[sizes[1]],
        peer=medians[sizes[0]],
        ratio=flatness,
        at_least=0.85,
        limited_by="HDF5's calls for each chunk",
        note="chunks of 10 events, one thread",
    )


class ClockedWriter(QueueWriterThread):
    """A writer that notes the processor time of its two threads, those that encode left out."""

    collecting_s = writing_s = 0.0

    def run(self, *args: Any, **kwargs: Any) -> None:
        super().run(*args, **kwargs)
        self.collecting_s = time.thread_time()

    def _count(self, n_events: int, n_frames: int) -> None:
        super()._count(n_events, n_frames)
        self.writing_s = time.thread_time()  # called by the thread that writes


def serial_fraction(context: Context) -> Iterator[Row]:
    """Row 13: what the threads of one writer that do not encode could feed at most."""
    events = recording(context.size(3000, 300))
    for name, chosen in (("3 images", events), ("mask", without(events, "image", "image_bg"))):
        yield from _serial(context, f"48 scalars + {name}", chosen)


def _serial(context: Context, title: str, events: dict[str, Any]) -> Iterator[Row]:
    n_frames = context.size(20_000, 300)
    n_held = len(events["deform"])
    tasks = [
        Task(EventQueue(producers=N_PRODUCERS), new_counts(n_frames))
        for _ in range(context.rounds)
    ]
    collecting, writing = [], []
    with context.scratch() as folder, Crew(folder, events, tasks, N_PRODUCERS) as crew:
        path = folder / "out.rtdc"
        for number in range(len(tasks)):
            c_s, w_s = _clocked(path, crew, tasks, number, max(2, context.threads))
            collecting.append(c_s / n_frames)
            writing.append(w_s / n_frames)
    encode: Callable[[], float] = codec_alone(chunks_of(events), 1)
    seconds = in_turn({"encode": encode}, context.rounds)["encode"]
    encoding = [value / n_held for value in seconds]
    serial_s = statistics.median(collecting) + statistics.median(writing)
    encoding_s = statistics.median(encoding)
    event_bytes = nbytes(events) / n_held
    yield Row(
        "13",
        f"outside the codec, {title}; peer: in the codec, 1 thread",
        "us/event",
        ours=serial_s * 1e6,
        peer=encoding_s * 1e6,
        ratio=serial_s / (serial_s + encoding_s),
        limited_by="one writer's two threads, together",
        note=f"collecting {statistics.median(collecting) * 1e6:.0f}, "
        f"writing {statistics.median(writing) * 1e6:.0f}; at most "
        f"{event_bytes / serial_s / 1e9:.2f} GB/s or {1 / serial_s:,.0f} events/s, with "
        f"{encoding_s / serial_s:.1f} cores that encode; ratio: serial fraction",
        samples={"collecting": collecting, "writing": writing, "encoding": encoding},
    )


def _clocked(
    path: Path, crew: Crew, tasks: list[Task], number: int, threads: int
) -> tuple[float, float]:
    found: list[ClockedWriter] = []

    def make(**options: Any) -> ClockedWriter:
        found.append(ClockedWriter(**options))
        return found[-1]

    write_stream(make, path, crew, tasks, number, threads=threads)
    return found[-1].collecting_s, found[-1].writing_s
