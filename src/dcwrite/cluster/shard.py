"""One range of frames becomes one shard: what a worker does, in one thread.

Alone here: how frames get from the caller's function into a file. Invariant: the events of a range
are those that one machine would have written for these frames, in the same order.

A task of Dask has one thread of its worker. So all of it happens there in turns: events are
computed, sorted (`stream.collector`), compressed and written (`HDF5Writer` with one thread).
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from ..errors import UsageError
from ..store.writer import HDF5Writer
from ..stream.collector import Collector
from .executor import stop_if_cancelled
from .frames import RangeCounts, RangeFrames
from .part import Part, make_part
from .run import Process, Run

__all__ = ["ShardTask", "write_shard"]

#: Frames that are sorted at a time: few, for they wait until their numbers of events are known,
#: and what does not fit into memory meanwhile waits in a file.
FRAMES_PER_BATCH: Final = 50


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker is asked to do.

    Attributes
    ----------
    run
        The run.
    start, stop
        The range of frames.
    process
        The caller's function.
    memory_budget
        Bytes of events that may wait to be sorted.
    """

    run: Run
    start: int
    stop: int
    process: Process
    memory_budget: int


def write_shard(task: ShardTask) -> Part:
    """Write the shard of a range of frames, if it is not there.

    Raises
    ------
    EventError, StallError
        The caller's function does not bring each frame of the range once, or events do not fit.
    UsageError
        It ends the program.
    BaseException
        What the caller's function raised, and the errors of `make_part`.
    """
    frames = range(task.start, task.stop)

    def fill(writer: HDF5Writer) -> int:
        counts: Any = RangeCounts(frames)  # it has what is used of a sequence
        is_whole = True

        def store(events: dict[str, Any], n_events: int, _n_frames: int) -> None:
            nonlocal is_whole
            # after an error the collector hands on what came before; that has no use here, and
            # the writer's second error would hide the first
            if n_events and is_whole:
                is_whole = False
                for feat, data in events.items():
                    writer.store_feature_chunk(feat, data)
                is_whole = True

        with closing(RangeFrames(task.process, frames, counts)) as source:
            collector = Collector(
                source,
                counts,
                write_threshold=FRAMES_PER_BATCH,
                put_batch=store,
                check=stop_if_cancelled,
                frame_info=task.run.settings.frame_info,
                memory_budget=task.memory_budget,
                spool_dir=task.run.folder,
                first_frame=task.start,
            )
            collector.run()
            source.finish()
        return int(counts.counts.sum())

    run = task.run
    try:
        return make_part(
            run, "frames", task.start, task.stop, fill, compression=run.settings.shard_compression
        )
    except (SystemExit, GeneratorExit) as exc:
        # it would end the worker, and after that the next one
        raise UsageError(
            f"expected process() to return or to raise an error, got {type(exc).__name__} "
            f"({exc}); raise another exception instead of ending the program"
        ) from exc
