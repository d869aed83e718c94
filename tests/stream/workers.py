"""What runs in the worker processes of the tests, and how they tell the test where they are."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcwrite.simulate import SimulatedRecording

__all__ = ["Telltale", "deliver", "told"]


def deliver(
    recording: SimulatedRecording,
    frames: Sequence[int],
    feat_nevents: Any,
    event_queues: Sequence[Any],
) -> None:
    """Draw frames, announce their events, put them into each of the queues."""
    counts = recording.nevents()
    for index in frames:
        events = recording.frame_events(index)
        feat_nevents[index] = int(counts[index])
        if events is not None:
            for event_queue in event_queues:
                event_queue.put((index, events))
    for event_queue in event_queues:
        event_queue.close()
        event_queue.join_thread()


class Telltale:
    """Data that tell through a named pipe when another process takes them out of a queue.

    Parameters
    ----------
    pipe
        Path of the named pipe.
    data
        What the other process gets.
    """

    def __init__(self, pipe: Path, data: npt.NDArray[Any]) -> None:
        self.pipe = pipe
        self.data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return _tell, (str(self.pipe), self.data)


def _tell(pipe: str, data: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    handle = os.open(pipe, os.O_WRONLY)
    os.write(handle, b"!")
    os.close(handle)
    return data


def told(handle: int, timeout_s: float) -> bool:
    """Wait until somebody has written into a named pipe that is open for reading."""
    readable, _, _ = select.select([handle], [], [], timeout_s)
    return bool(readable) and os.read(handle, 1) == b"!"
