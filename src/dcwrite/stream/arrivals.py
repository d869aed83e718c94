"""Arrivals: what was announced of one lane of an event queue, and not taken yet.

Alone here: which messages belong together, and what has to be taken before what. Invariant:
nothing overtakes anything else of the same lane.
"""

from __future__ import annotations

import bisect
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import WriterDiedError
from .lanes import MESSAGE, MESSAGE_DTYPE, Kind, Message

__all__ = ["NOTHING", "Arrivals", "Records", "by_lane"]

#: No frames at all.
NOTHING: Final = range(0)
#: With fewer messages it takes longer to look for those that belong together than to look at each.
_LEAST_TOGETHER: Final = 8


class Records(NamedTuple):
    """Records of single frames, one behind the other, of one size, with one layout.

    Parameters
    ----------
    frames
        Index of each, shape (n,).
    layout, n_events, size_bytes
        Of all.
    end
        End of the first one in the lane.
    sequence
        Number of the last one.
    """

    frames: npt.NDArray[np.int64]
    layout: int
    n_events: int
    size_bytes: int
    end: int
    sequence: int

    @property
    def kind(self) -> int:
        """What they are, as of a message."""
        return Kind.PACKED

    @property
    def last_end(self) -> int:
        """End of the last one in the lane."""
        return self.end + (len(self.frames) - 1) * self.size_bytes

    @property
    def lent_bytes(self) -> int:
        """Memory in the lane."""
        return len(self.frames) * self.size_bytes

    def split(self, n_frames: int) -> tuple[Records, Records]:
        """The first ones, and the others."""
        end = self.end + n_frames * self.size_bytes
        rest = self._replace(frames=self.frames[n_frames:], end=end)
        n_rest = len(rest.frames)
        return self._replace(frames=self.frames[:n_frames], sequence=self.sequence - n_rest), rest


class Arrivals:
    """What was announced of a lane, in order.

    Attributes
    ----------
    has_ended : bool
        Whether nothing more will come.
    error : WriterDiedError or None
        What its owner died of, to be told after all that came before.
    """

    def __init__(self) -> None:
        self._waiting: deque[Message | Records] = deque()
        #: frame of the last one, as long as all wait in the order of their frames
        self._last_frame = -1
        self._is_in_order = True
        self.has_ended = False
        self.error: WriterDiedError | None = None

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def append(self, one: Message | Records) -> None:
        """Add what was announced."""
        if not self._waiting:
            self._is_in_order, self._last_frame = True, -1
        if isinstance(one, Records):
            first, last = int(one.frames[0]), int(one.frames[-1])
            self._is_in_order &= bool((np.diff(one.frames) > 0).all())
        elif one.kind in {*Kind.PREPARING, Kind.PART, Kind.RETRACT}:
            first = last = self._last_frame
        else:
            first, last = one.value, one.value + max(1, one.n_frames) - 1
        self._is_in_order &= first >= self._last_frame
        self._last_frame = last
        self._waiting.append(one)

    def end(self, error: WriterDiedError | None) -> None:
        """Nothing more will come."""
        self.has_ended, self.error = True, error

    def take(self, early: range, n_bytes: int) -> Message | Records | None:
        """Take the next one, if it is not too early.

        Parameters
        ----------
        early
            Frames that may stay. They do not if one before these stands behind them.
        n_bytes
            Records are taken until they have so much memory, at least one.

        Returns
        -------
        Message or Records or None
            None: the next one stays.
        """
        one = self._waiting[0]
        if not self._is_in_order:
            early = NOTHING
        if isinstance(one, Records):
            n_frames = min(len(one.frames), max(1, n_bytes // one.size_bytes))
            if early:
                if int(one.frames[0]) in early:
                    return None
                n_before = bisect.bisect_left(one.frames, early.start)
                n_frames = min(n_frames, n_before) if n_before else 1
            if n_frames < len(one.frames):
                one, self._waiting[0] = one.split(n_frames)
                return one
        elif one.is_of(early):
            return None
        self._waiting.popleft()
        return one


def by_lane(data: bytes, lane_bytes: int) -> Iterator[tuple[int, list[Message | Records]]]:
    """Messages of a pipe by lane, those that belong together as one.

    Parameters
    ----------
    data
        The messages.
    lane_bytes
        Size of a lane, at whose end records begin anew.

    Yields
    ------
    lane, messages
        In the order in which they came.
    """
    if len(data) < _LEAST_TOGETHER * MESSAGE.size:
        for values in MESSAGE.iter_unpack(data):
            message = Message(*values)
            yield message.lane, [message]
        return
    messages = np.frombuffer(data, MESSAGE_DTYPE)
    for lane in np.unique(messages["lane"]).tolist():
        yield lane, list(_together(messages[messages["lane"] == lane], lane_bytes))


def _together(messages: npt.NDArray[np.void], lane_bytes: int) -> Iterator[Message | Records]:
    """Messages of one lane, those that belong together as one."""
    sizes, ends = messages["size_bytes"].astype(np.int64), messages["end"].astype(np.int64)
    starts = ends - sizes
    goes_on = (
        (messages["kind"][1:] == Kind.PACKED)
        & (messages["kind"][:-1] == Kind.PACKED)
        & (messages["layout"][1:] == messages["layout"][:-1])
        & (messages["n_events"][1:] == messages["n_events"][:-1])
        & (sizes[1:] == sizes[:-1])
        & (starts[1:] == ends[:-1])
        & (starts[1:] % lane_bytes != 0)
        & (sizes[1:] > 0)
    )
    bounds = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), len(messages)]
    for start, stop in itertools.pairwise(bounds):
        if stop - start < _LEAST_TOGETHER:
            for values in MESSAGE.iter_unpack(messages[start:stop].tobytes()):
                yield Message(*values)
            continue
        first = messages[start]
        yield Records(
            messages["value"][start:stop].astype(np.int64),
            int(first["layout"]),
            int(first["n_events"]),
            int(sizes[start]),
            int(ends[start]),
            int(messages["sequence"][stop - 1]),
        )
