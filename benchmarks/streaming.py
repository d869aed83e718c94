"""Rows 4, 5, 6 and 11: from worker processes, through a queue, to a closed file."""

from __future__ import annotations

import queue
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measure import Context, Row, Stopwatch, compare_rows, in_turn, size_bytes, sync
from producers import SPAWN, Crew, Task, new_counts
from recordings import Events, recording, without
from storing import check_equal, chunks_of, codec_alone

from dcwrite import ChunkWriter, QueueWriterThread
from dcwrite.stream.channel import EventQueue
from dcwrite.stream.chunk_writer import BatchEnd, WriterQueue

__all__ = ["durabilities", "event_queue", "full_events", "multiprocessing_queue"]

N_PRODUCERS = 2
#: Frames that a producer puts at once, where it does.
FRAMES_PER_PUT = 40


def peer_thread() -> Any:
    """Import the peer's class late: the benchmarks start without it."""
    from dcnum.write import QueueWriterThread as PeerThread  # noqa: PLC0415 - a peer

    return PeerThread


def write_stream(
    writer_class: Any, path: Path, crew: Crew, tasks: list[Task], number: int, **options: Any
) -> float:
    """Write what the crew puts; seconds from the first put to the closed and synced file."""
    task = tasks[number]
    path.unlink(missing_ok=True)
    writer = writer_class(
        event_queue=task.queue,
        write_queue_size=SPAWN.RawValue("L", 0),
        feat_nevents=task.counts,
        path_out=path,
        write_threshold=500,
        **options,
    )
    with Stopwatch() as watch:
        crew.start(number)
        writer.start()
        writer.join()
        sync(path)
    crew.wait()
    assert writer.written_events.value == len(task.counts), "not all events were written"
    return watch.seconds


def drain(crew: Crew, tasks: list[Task], number: int) -> float:
    """Take everything out of a queue, and do nothing with it."""
    task = tasks[number]
    get_many = getattr(task.queue, "get_many", lambda timeout: [task.queue.get(timeout=timeout)])
    n_left = len(task.counts)
    with Stopwatch() as watch:
        crew.start(number)
        while n_left:
            n_left -= len(get_many(60))
    crew.wait()
    try:
        get_many(0)
    except queue.Empty:
        return watch.seconds
    raise AssertionError("more came than was put")


def run_streams(
    context: Context,
    events: Events,
    ways: dict[str, tuple[Callable[[], Any], int]],
    run: Callable[[str, Path, Crew, list[Task], int], float],
    check: Callable[[dict[str, Path]], str],
    frames_per_put: dict[str, int] | None = None,
) -> tuple[dict[str, list[float]], str]:
    """Run streams in turn, each with a queue of its own.

    Parameters
    ----------
    context, events
        What is put.
    ways
        Name to: function that makes the queue, number of frames.
    run
        Gets name, path, crew, tasks, number of the task; gives seconds.
    check
        Gets the paths of the last round; gives a note.
    frames_per_put
        Of the ways whose producers put several frames at once.
    """
    rounds = context.rounds + (not context.quick)
    names = [name for _ in range(rounds) for name in ways]
    per_put = frames_per_put or {}
    tasks = [
        Task(ways[name][0](), new_counts(ways[name][1]), frames_per_put=per_put.get(name, 1))
        for name in names
    ]
    numbers = iter(range(len(tasks)))
    with context.scratch() as folder:
        paths = {name: folder / f"{name}.rtdc" for name in ways}
        with Crew(folder, events, tasks, N_PRODUCERS) as crew:

            def once(name: str) -> Callable[[], float]:
                return lambda: run(name, paths[name], crew, tasks, next(numbers))

            samples = in_turn(
                {name: once(name) for name in ways}, context.rounds, warm_up=not context.quick
            )
        note = check(paths)
    return samples, note


def multiprocessing_queue(context: Context) -> Iterator[Row]:
    """Row 4: through a multiprocessing queue."""
    events = without(recording(context.size(3000, 300)), "image", "image_bg")
    n_frames = context.size(6000, 300)
    peer_class = peer_thread()

    def run(name: str, path: Path, crew: Crew, tasks: list[Task], number: int) -> float:
        if name == "limit":
            return drain(crew, tasks, number)
        if name == "peer":
            return write_stream(peer_class, path, crew, tasks, number)
        return write_stream(QueueWriterThread, path, crew, tasks, number, threads=context.threads)

    ways = dict.fromkeys(("ours", "peer", "limit"), (SPAWN.Queue, n_frames))
    samples, note = run_streams(
        context, events, ways, run, lambda paths: check_equal(paths["ours"], paths["peer"])
    )
    yield compare_rows(
        "4",
        "multiprocessing.Queue to file, 48 scalars + mask; limit: taken out only",
        "events/s",
        dict.fromkeys(ways, n_frames),
        samples,
        at_least=1.5,
        limited_by="pickle of the queue, on both sides",
        note=note,
    )


def event_queue(context: Context) -> Iterator[Row]:
    """Row 5: scalars and masks through EventQueue."""
    events = without(recording(context.size(3000, 300)), "image", "image_bg")
    yield from _against_queue(
        context,
        "5",
        "EventQueue to file, 48 scalars + mask; limit: taken out only",
        events,
        {"ours": (context.size(20_000, 300), {}, 5.0)},
        context.size(4000, 300),
        "writer's Python per event",
        drained=True,
    )


def full_events(context: Context) -> Iterator[Row]:
    """Row 6: full events through EventQueue, at the level of an archive, and live."""
    # some seconds each: begin and end of a recording are not what is measured
    events = recording(context.size(3000, 320))
    live = (context.size(100_000, 640), {"compression": "live"}, 8.0)
    once = (live[0], {"compression": "live", "dedup_background": True}, 8.0)
    yield from _against_queue(
        context,
        "6",
        "EventQueue to file, 48 scalars + 3 images",
        events,
        {
            "ours": (context.size(40_000, 320), {}, 3.0),
            "live": live,
            "live in batches": live,
            "live in batches, dedup_background": once,
        },
        context.size(10_000, 320),
        "codec of `image`",
        drained=False,
    )


def _against_queue(
    context: Context,
    number: str,
    title: str,
    events: Events,
    ours: dict[str, tuple[int, dict[str, Any], float]],
    n_peer: int,
    limited_by: str,
    *,
    drained: bool,
) -> Iterator[Row]:
    """Compare EventQueue and our writer with multiprocessing.Queue and the peer's."""
    peer_class = peer_thread()
    options = {name: kwds for name, (_, kwds, _) in ours.items()}

    def make() -> EventQueue:
        return EventQueue(producers=N_PRODUCERS)

    ways: dict[str, tuple[Callable[[], Any], int]] = {
        name: (make, n_frames) for name, (n_frames, _, _) in ours.items()
    }
    ways["peer"] = (SPAWN.Queue, n_peer)
    if drained:
        ways["limit"] = (make, next(iter(ours.values()))[0])

    def run(name: str, path: Path, crew: Crew, tasks: list[Task], task: int) -> float:
        if name == "limit":
            return drain(crew, tasks, task)
        if name == "peer":
            return write_stream(peer_class, path, crew, tasks, task)
        kwds = {"threads": context.threads, **options[name]}
        return write_stream(QueueWriterThread, path, crew, tasks, task, **kwds)

    sizes: dict[str, float] = {}

    def check(paths: dict[str, Path]) -> str:
        per_event = {name: size_bytes(paths[name]) / ways[name][1] for name in (*ours, "peer")}
        sizes.update({name: per_event[name] / per_event["peer"] for name in ours})
        notes = [check_equal(paths[name], paths["peer"], n_peer) for name in ours]
        return "; ".join(filter(None, (*notes, f"size per event {sizes['ours']:.3f}")))

    per_put = {name: FRAMES_PER_PUT for name in ours if "in batches" in name}
    samples, note = run_streams(context, events, ways, run, check, per_put)
    if not drained:
        encode = codec_alone(chunks_of(events), context.threads)
        n_events = len(events["deform"])
        samples["limit"] = [encode() for _ in range(context.rounds)]
        ways["limit"] = (make, n_events)
        title += f"; limit: the codec on {context.threads} threads"
    for name, (_, _, at_least) in ours.items():
        live = name.startswith("live")
        batches = f", put_batch of {per_put[name]} frames" if name in per_put else ""
        batches += ", dedup_background" if options[name].get("dedup_background") else ""
        limit = {} if live else {"limit": samples["limit"]}
        yield compare_rows(
            number,
            f'the same, compression="live"{batches}' if live else title,
            "events/s",
            {"ours": ways[name][1], "peer": n_peer, "limit": ways["limit"][1]},
            {"ours": samples[name], "peer": samples["peer"], **limit},
            at_least=at_least,
            limited_by="codec at the lowest levels, copies" if live else limited_by,
            note="" if live else note,
        )
        if live:
            yield Row(
                number, f"size of the file that was written live{batches}", "of peer",
                ours=sizes[name],
                ratio=sizes[name], at_most=1.25, limited_by="lower levels while it lags behind",
            )  # fmt: skip


def write_batches(path: Path, events: Events, **options: Any) -> float:
    """Write batches of 500 with a ChunkWriter; seconds until the file is closed and synced."""
    path.unlink(missing_ok=True)
    n_events = len(events["deform"])
    waiting = WriterQueue()
    with Stopwatch() as watch:
        writer = ChunkWriter(path, waiting, SPAWN.RawValue("L", 0), mode="w", **options)
        writer.start()
        for start in range(0, n_events, 500):
            stop = min(start + 500, n_events)
            for feat, data in events.items():
                waiting.put((feat, data[start:stop]), writer.check)
            waiting.put(BatchEnd(stop - start, stop - start), writer.check)
        writer.finished_when_queue_empty()
        writer.join()
        sync(path)
    return watch.seconds


def durabilities(context: Context) -> Iterator[Row]:
    """Row 11: what the journal costs."""
    # long enough that the start and the end of the two files are not what is measured
    events = without(recording(context.size(9000, 300)), "image_bg")
    n_events = len(events["deform"])
    with context.scratch() as folder:

        def with_(durability: str) -> Callable[[], float]:
            path = folder / f"{durability}.rtdc"
            return lambda: write_batches(
                path, events, durability=durability, threads=context.threads
            )

        samples = in_turn(
            {name: with_(name) for name in ("process", "none", "power")},
            context.size(9, 1),
            warm_up=not context.quick,
        )
        note = check_equal(folder / "process.rtdc", folder / "none.rtdc")
    none = samples["none"]
    for name, target in (("process", 0.95), ("power", None)):
        pairs = [b / a for a, b in zip(samples[name], none, strict=True)]
        yield Row(
            "11",
            f'ChunkWriter, batches of 500, durability="{name}"; peer: "none"',
            "events/s",
            ours=n_events / statistics.median(samples[name]),
            peer=n_events / statistics.median(none),
            ratio=statistics.median(pairs),
            at_least=target,
            limited_by="journal in the writer's thread" if target else "fdatasync of the disk",
            note=f"pairs {min(pairs):.2f} to {max(pairs):.2f}; {note}",
            samples={"ours": samples[name], "peer": none},
        )
