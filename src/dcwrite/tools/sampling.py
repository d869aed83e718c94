"""A random sample of a recording of any length.

Alone here: how many events are in memory at a time. Invariant: memory does not grow with the
recording: it is read block by block, as often as needed; the same seed gives the same sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Columns", "Sample", "chosen_rows", "take_sample"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

#: Events per block, and what all features together may take to be kept between two passes.
BLOCK_EVENTS: Final = 1 << 16
KEPT_BYTES: Final = 64 * 1024**2


class Columns:
    """Scalar features, block by block.

    Parameters
    ----------
    features
        Name -> something of shape (events,) that can be sliced.
    n_events
        Events to read; all features have at least as many.
    """

    def __init__(self, features: Mapping[str, Any], n_events: int) -> None:
        self.features = dict(features)
        self.n_events = n_events
        self._is_small = n_events * max(1, len(self.features)) * 8 <= KEPT_BYTES
        self._kept: dict[int, dict[str, Floats]] = {}

    def blocks(
        self, names: Sequence[str] | None = None, shown: Callable[[int], None] | None = None
    ) -> Iterator[tuple[int, dict[str, Floats]]]:
        """First event and the values of each block.

        Parameters
        ----------
        names
            Features that are wanted; None: all.
        shown
            Called with the number of events of each block when it is done with.
        """
        wanted = list(self.features) if names is None else list(dict.fromkeys(names))
        for start in range(0, self.n_events, BLOCK_EVENTS):
            stop = min(start + BLOCK_EVENTS, self.n_events)
            block = self._kept.get(start, {})
            for name in wanted:
                if name not in block:
                    block[name] = np.asarray(self.features[name][start:stop], dtype=np.float64)
            if self._is_small:
                self._kept[start] = block
            yield start, {name: block[name] for name in wanted}
            if shown is not None:
                shown(stop - start)


def chosen_rows(n_events: int, n_wanted: int, seed: int) -> Iterator[tuple[int, Indices | None]]:
    """A random subset, block by block: uniform, without repeats, sorted.

    Yields
    ------
    start, rows
        First event of a block, and the rows in it; None: all.
    """
    rng = np.random.default_rng(seed)
    left = min(n_wanted, n_events)
    for start in range(0, n_events, BLOCK_EVENTS):
        length = min(BLOCK_EVENTS, n_events - start)
        if left >= n_events - start:
            yield start, None
            left -= length
            continue
        after = n_events - start - length
        n_here = int(rng.hypergeometric(length, after, left)) if left else 0
        yield start, np.sort(rng.choice(length, n_here, replace=False)).astype(np.int64)
        left -= n_here


@dataclass(frozen=True, slots=True)
class Sample:
    """Events that stand for all.

    Attributes
    ----------
    events
        Their numbers, sorted; shape (n,).
    values
        Feature -> values; shape (n,).
    spans
        Feature -> smallest and largest finite value of all events; missing where there is none.
    n_events
        Events that were looked at.
    """

    events: Indices
    values: dict[str, Floats]
    spans: dict[str, tuple[float, float]]
    n_events: int


def take_sample(
    columns: Columns, n_wanted: int, seed: int, shown: Callable[[int], None] | None = None
) -> Sample:
    """Take a random sample of at most so many events; one pass over the recording."""
    events: list[Indices] = []
    values: dict[str, list[Floats]] = {name: [] for name in columns.features}
    spans: dict[str, tuple[float, float]] = {}
    rows_of = dict(chosen_rows(columns.n_events, n_wanted, seed))
    for start, block in columns.blocks(shown=shown):
        rows = rows_of[start]
        length = min(BLOCK_EVENTS, columns.n_events - start)
        here = np.arange(length) if rows is None else rows
        events.append(here + start)
        for name, column in block.items():
            values[name].append(column[here])
            finite = column[np.isfinite(column)]
            if finite.size:
                low, high = spans.get(name, (math.inf, -math.inf))
                spans[name] = min(low, float(finite.min())), max(high, float(finite.max()))
    return Sample(
        np.concatenate(events) if events else np.empty(0, dtype=np.int64),
        {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in values.items()},
        spans,
        columns.n_events,
    )
