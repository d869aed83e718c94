"""How far a job is: a frozen record that stands between the work and whatever shows it.

Alone here: what is counted. Invariant: a record never changes; `current` counts what is *written*
(handed to HDF5) or read, `queued` what the writer has accepted, and neither stands for the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Clock", "Progress", "Report"]


@dataclass(frozen=True, slots=True)
class Progress:
    """State of one stage of a job.

    Attributes
    ----------
    stage
        What is being done: "writing", "verifying".
    current
        Units done; for a stage that writes: handed to HDF5.
    total
        Units to do; None: not known.
    unit
        "events" or "bytes".
    elapsed_s
        Seconds since the stage began.
    queued
        Units that the writer has accepted so far, `current` included; None: there is no writer.
    """

    stage: str
    current: int
    total: int | None
    unit: str
    elapsed_s: float
    queued: int | None = None

    @property
    def rate(self) -> float:
        """Units per second since the stage began; 0 before the first."""
        return self.current / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def time_left_s(self) -> float | None:
        """Seconds that the rest takes at this rate; None: cannot be told yet."""
        if self.total is None or not self.rate:
            return None
        return max(0, self.total - self.current) / self.rate

    @property
    def is_done(self) -> bool:
        """Whether everything is done."""
        return self.total is not None and self.current >= self.total


#: Takes the records; called from the thread that does the work.
Report: TypeAlias = Callable[[Progress], None]


class Clock:
    """Makes the records of one stage.

    Parameters
    ----------
    stage, total, unit
        As in `Progress`.
    report
        Takes the records; None: nobody wants them.
    """

    def __init__(self, stage: str, total: int | None, unit: str, report: Report | None) -> None:
        self.stage = stage
        self.total = total
        self.unit = unit
        self._report = report
        self._start = time.perf_counter()
        self.show(0)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return time.perf_counter() - self._start

    def show(self, current: int, queued: int | None = None) -> None:
        """Report a state."""
        if self._report is not None:
            self._report(
                Progress(self.stage, current, self.total, self.unit, self.elapsed_s, queued)
            )
