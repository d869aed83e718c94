"""The stages of a run, as the program that asks goes through them: compute, align, join.

Alone here: what is asked of the workers, and what becomes of ranges that fail. Invariant: all
ranges are tried before the first failure is reported; the order of completion has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from ..errors import ClusterError, EventError
from ..store.writer import HDF5Writer
from ..tools.progress import Clock, Report
from .executor import Executor, run_tasks
from .part import Part
from .pieces import PieceTask, copy_events, cuts, sources_of, unit_of, write_piece
from .run import RANGES_PER_WORKER, FeatureKinds, Process, Run
from .shard import ShardTask, write_shard

__all__ = ["Job", "common_features"]

_T = TypeVar("_T", ShardTask, PieceTask)

#: Events of a piece, where the recording is large enough for that.
EVENTS_PER_PIECE: Final = 10_000
#: Failed ranges whose errors a message tells.
LISTED_RANGES: Final = 20


class Job:
    """One run on one cluster.

    Parameters
    ----------
    run
        The run.
    executor
        Where tasks run.
    progress
        Takes records of progress; the stages are "computing" [frames], "aligning" [events] and
        "joining" [bytes].

    Attributes
    ----------
    seconds : dict
        Wall time of each stage.
    """

    def __init__(self, run: Run, executor: Executor, progress: Report | None) -> None:
        self.run = run
        self.seconds: dict[str, float] = {}
        self._executor = executor
        self._progress = progress

    def compute(self, process: Process, memory_budget: int) -> list[Part]:
        """Shards of all ranges, in order.

        Raises
        ------
        ClusterError
            Ranges failed, or the cluster was lost.
        """
        tasks = [
            ShardTask(self.run, frames.start, frames.stop, process, memory_budget)
            for frames in self.run.ranges()
        ]
        clock = Clock("computing", self.run.settings.n_frames, "frames", self._progress)
        return self._run("frames", write_shard, tasks, clock)

    def align(self, shards: Sequence[Part], features: FeatureKinds) -> list[Part]:
        """Pieces whose chunks can be moved as they are; the shards, where these fit already.

        Raises
        ------
        ClusterError
            Pieces could not be written, or the cluster was lost.
        """
        settings = self.run.settings
        sources = sources_of(shards, "frames")
        n_events = sum(shard.n_events for shard in shards)
        unit = unit_of(features, n_events // max(1, len(shards)))
        if settings.shard_compression == settings.compression and not any(
            source.first % unit for source in sources
        ):
            self.seconds["aligning"] = 0.0
            return list(shards)
        tasks = [
            PieceTask(
                self.run,
                piece.start,
                piece.stop,
                tuple(
                    source
                    for source in sources
                    if source.first < piece.stop and piece.start < source.first + source.n_events
                ),
                features,
            )
            for piece in cuts(features, n_events, self._n_pieces(n_events, len(shards)))
        ]
        clock = Clock("aligning", n_events, "events", self._progress)
        return self._run("events", write_piece, tasks, clock)

    def _n_pieces(self, n_events: int, n_shards: int) -> int:
        """Few, for each costs the join one call per feature; but enough for all workers."""
        n_workers = int(getattr(self._executor, "n_workers", 1))
        return min(n_shards, max(RANGES_PER_WORKER * n_workers, n_events // EVENTS_PER_PIECE))

    def join(
        self, writer: HDF5Writer, parts: Sequence[Part], features: FeatureKinds
    ) -> tuple[int, int]:
        """Put parts one behind the other; numbers of chunks moved and recoded."""
        n_events = sum(part.n_events for part in parts)
        clock = Clock("joining", sum(part.size_bytes for part in parts), "bytes", self._progress)
        done = n_moved = n_recoded = 0
        for source, counts in copy_events(
            writer, sources_of(parts, "part"), features, 0, n_events
        ):
            done += source.size_bytes
            n_moved += counts.n_moved
            n_recoded += counts.n_recoded
            clock.show(done)
        clock.show(clock.total or 0)
        return n_moved, n_recoded

    def _run(
        self, unit: str, function: Callable[[_T], Part], tasks: Iterable[_T], clock: Clock
    ) -> list[Part]:
        parts: list[Part] = []
        failed: dict[tuple[int, int], Exception] = {}
        n_done = 0
        for task, end in run_tasks(self._executor, function, tasks):
            if isinstance(end, Exception):
                failed[task.start, task.stop] = end
                continue
            parts.append(end)
            n_done += task.stop - task.start
            clock.show(n_done)
        self.seconds[clock.stage] = clock.elapsed_s
        if failed:
            raise self._failure(unit, failed, len(parts)) from next(iter(failed.values()))
        return sorted(parts, key=lambda part: part.start)

    def _failure(
        self, unit: str, failed: dict[tuple[int, int], Exception], n_parts: int
    ) -> ClusterError:
        ranges = sorted(failed)
        listed = "; ".join(
            f"{unit} {start} to {stop - 1}: {_in_words(failed[start, stop])}"
            for start, stop in ranges[:LISTED_RANGES]
        )
        left = ranges[LISTED_RANGES:]
        more = (
            "; and " + ", ".join(f"{start} to {stop - 1}" for start, stop in left) if left else ""
        )
        return ClusterError(
            f"'{self.run.folder}': {len(ranges)} of {len(ranges) + n_parts} ranges could not be "
            f"written ({listed}{more}); the other {n_parts} stay, and are not computed again when "
            f"the same run is repeated",
            ranges,
        )


def _in_words(error: Exception) -> str:
    names = (kind.__name__ for kind in type(error).__mro__)
    public = next(name for name in names if not name.startswith("_"))
    return f"{public}: {error}"


def common_features(parts: Sequence[Part], *, virtual: bool = False) -> FeatureKinds:
    """Features that all parts with events have, with the dtypes of the first.

    Parameters
    ----------
    parts
        Shards.
    virtual
        Whether the recording refers to them, so that nobody converts their values.

    Raises
    ------
    EventError
        Names or shapes differ; for a virtual recording also dtypes.
    """
    full = [part for part in parts if part.n_events]
    if not full:
        return {}
    first = full[0]
    for part in full[1:]:
        missing = sorted(first.features.keys() - part.features.keys())
        unexpected = sorted(part.features.keys() - first.features.keys())
        shapes = [
            f"'{feat}' {part.features[feat][0]} and not {shape}"
            for feat, (shape, _) in first.features.items()
            if feat in part.features and part.features[feat][0] != shape
        ]
        if missing or unexpected or shapes:
            raise EventError(
                f"frames {part.start} to {part.stop - 1}: expected the features of frames "
                f"{first.start} to {first.stop - 1}, got missing features {missing}, unexpected "
                f"features {unexpected}, other shapes {shapes}; every frame with events has to "
                f"bring the same features"
            )
        dtypes = [
            f"'{feat}' {part.features[feat][1]} and not {dtype}"
            for feat, (_, dtype) in first.features.items()
            if virtual and part.features[feat][1] != dtype
        ]
        if dtypes:
            raise EventError(
                f"frames {part.start} to {part.stop - 1}: expected the dtypes of frames "
                f"{first.start} to {first.stop - 1}, got {', '.join(dtypes)}; have process() give "
                f"each feature one dtype, or pass virtual=False, which converts them"
            )
    return first.features
