"""The level that fits the moment: lower while the writer cannot keep up, else the best.

Alone here: the rule. Invariant: the level stays between the settings' bounds; every level gives
plain Zstandard chunks that every reader opens.

The rule looks at the least backlog within a while, as network queues do (CoDel): a full queue
right after a batch came says nothing, a queue that never empties does. An empty one says nothing,
either, while more waits to get there: then those who bring it need the processor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from ..format.compression import Compression

__all__ = ["LevelPolicy"]

#: Time over which the least backlog is looked for.
WINDOW_S: Final = 0.2
#: Parts of the most that may wait: above the first for a whole window the level falls by one,
#: below the second it rises by one, above the third it falls to the lowest at once.
HIGH, LOW, FULL = 0.15, 0.02, 0.8


class LevelPolicy:
    """Chooses the Zstandard level of each chunk.

    Parameters
    ----------
    compression
        Settings; without `lowest_level` the level never changes.
    clock
        Seconds; for tests.

    Attributes
    ----------
    is_pressed : callable
        Says whether more waits before the backlog, so that the level must not rise.
    level : int or None
        The level of the next chunk; None: that of its dataset.
    counts : Counter
        Number of chunks by level.
    """

    def __init__(
        self, compression: Compression | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        lowest = compression.lowest_level if compression is not None else None
        self._highest = compression.level if compression is not None else None
        self._lowest = lowest
        self._clock = clock
        self.is_pressed: Callable[[], bool] = lambda: False
        self._window_start = clock()
        self._least = 1.0
        self.level: int | None = None if lowest is None else self._highest
        self.counts: Counter[int] = Counter()

    def choose(self, backlog: float, own_level: int | None) -> int | None:
        """Level for the next chunk.

        Parameters
        ----------
        backlog
            What waits as a part of the most that may wait, 0 to 1.
        own_level
            Level of the dataset; None: it is not compressed.
        """
        if own_level is None:
            return None
        if self.level is None or self._lowest is None or self._highest is None:
            self.counts[own_level] += 1
            return own_level
        self._least = min(self._least, backlog)
        now = self._clock()
        if backlog > FULL:
            self.level = self._lowest
        elif now - self._window_start >= WINDOW_S:
            if self._least > HIGH:
                self.level = max(self._lowest, self.level - 1)
            elif self._least < LOW and not self.is_pressed():
                self.level = min(self._highest, self.level + 1)
            self._window_start, self._least = now, 1.0
        self.counts[self.level] += 1
        return self.level
