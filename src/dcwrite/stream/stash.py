"""EventStash: the events of a range of frames, brought into the order of the frames.

Alone here: which rows of a batch belong to which frame, and what a frame must bring. Pure: no
I/O, no waiting. Invariant: `events` holds a frame's rows either all or not at all; the arrays do
not depend on the order in which frames arrive.
"""

from __future__ import annotations

from array import array as integer_array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EventError
from ..format.features import (
    as_item_arrays,
    cast_lossless,
    check_feature_name,
    flatten_group_features,
    is_contour,
    mask_to_stored,
    require_item_shape,
    to_stored,
)
from ..store.compact_rows import as_array
from .packed_rows import PackedRows, can_be_copied
from .packing import Layout, PackedEvents, analyse
from .recycled import RecycledMemory
from .runs import PackedRun

__all__ = ["EventStash", "Schema"]

AnyArray = npt.NDArray[Any]


class Schema:
    """Features that every frame brings, with the shape of one event each.

    The first frame with events sets it; all later ones have to agree. The first complete range of
    frames sets the dtypes.
    """

    def __init__(self) -> None:
        self.item_shapes: dict[str, tuple[int, ...]] = {}
        #: dtypes that later frames have to fit into; a mask is stored as uint8 in any case
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.frame: int | None = None
        #: the last layout that was compared, and whether the dtypes were set then
        self._taken: tuple[Layout, bool] | None = None
        #: the last layout of events that are not packed
        self._layout: Layout | None = None

    def layout_of(self, events: Mapping[str, Any]) -> Layout | None:
        """How events that are not packed could be; the same object for all that are alike."""
        found = analyse(events)
        if found is None:
            return None
        spec = found[0]
        if self._layout is None or self._layout.spec != spec:
            self._layout = Layout(spec)
        return self._layout

    def takes(self, frame: int, layout: Layout) -> bool:
        """Whether events with this layout agree with the schema; the first set it.

        Raises
        ------
        EventError
            The first ones have a name that cannot be stored.
        """
        shapes = None
        if self.frame is None:
            shapes = _item_shapes(layout)
            for feat in shapes:
                check_feature_name(feat)
            self.frame, self.item_shapes = frame, shapes
        if self._taken == (layout, bool(self.dtypes)):
            return True
        if (shapes or _item_shapes(layout)) != self.item_shapes:
            return False
        if any(layout.dtypes.get(feat, dtype) != dtype for feat, dtype in self.dtypes.items()):
            return False
        self._taken = (layout, bool(self.dtypes))
        return True

    def check(self, frame: int, arrays: Mapping[str, Any]) -> None:
        """Compare a frame's features with the schema, or set it.

        Raises
        ------
        EventError
            Features are missing, unexpected, or of another shape, or have a name that cannot be
            stored.
        """
        if self.frame is None:
            for feat in arrays:
                check_feature_name(feat)
            self.frame = frame
            self.item_shapes = {
                feat: () if is_contour(feat) else value.shape[1:] for feat, value in arrays.items()
            }
            return
        if arrays.keys() != self.item_shapes.keys():
            missing = sorted(self.item_shapes.keys() - arrays.keys())
            unexpected = sorted(arrays.keys() - self.item_shapes.keys())
            raise EventError(
                f"frame {frame}: expected the features of frame {self.frame}, got "
                f"missing features {missing}, unexpected features {unexpected}; every frame with "
                f"events has to bring the same features"
            )
        for feat, item_shape in self.item_shapes.items():
            if not is_contour(feat) and arrays[feat].shape[1:] != item_shape:
                require_item_shape(feat, arrays[feat].shape[1:], item_shape, f", frame {frame}")


class EventStash:
    """Sort events of several frames into arrays.

    Parameters
    ----------
    index_offset
        Index of the first frame.
    feat_nevents
        Number of events of each frame, shape (frames,).
    schema
        Features and shapes that frames before this range had; it is completed here.
    memory
        Where large arrays come from.
    n_expected
        Number of events for which there is room from the start.
    is_final
        Whether these are all frames; else `extend` adds more.

    Attributes
    ----------
    events : dict
        Feature names to arrays of shape (size, ...), filled as frames arrive; "contour": a list.
        Who looks at it before the last frame slows the rest of them down.
    feat_nevents : sequence of int
        As given; with those that `extend` added: a list.
    size : int
        Number of events of all frames.
    num_frames : int
        Number of frames.
    index_offset : int
        As given.

    Raises
    ------
    EventError
        A count is negative or no integer.
    """

    def __init__(
        self,
        index_offset: int,
        feat_nevents: Sequence[int] | npt.NDArray[Any],
        *,
        schema: Schema | None = None,
        memory: RecycledMemory | None = None,
        n_expected: int = 0,
        is_final: bool = True,
    ) -> None:
        counts = np.asarray(feat_nevents)
        if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu"):
            raise EventError(
                f"feat_nevents: expected one integer per frame, got shape {counts.shape} and "
                f"dtype {counts.dtype}"
            )
        counts = counts.astype(np.int64)
        if counts.size and counts.min() < 0:
            frame = index_offset + int(np.argmin(counts))
            raise EventError(
                f"feat_nevents, frame {frame}: expected 0 or more events, got {counts.min()} "
                f"(-1: the frame was not processed yet)"
            )
        self._events: dict[str, Any] = {}
        self._given_counts: Any = feat_nevents
        self.size = int(counts.sum())
        self.num_frames = len(counts)
        self.index_offset = index_offset
        self._n_expected = n_expected
        self._is_final = is_final
        self._counts = integer_array("q", counts.tolist())
        self._stops = integer_array("q", np.cumsum(counts).tolist())
        #: of each frame: 1 if it has brought its events, or has none to bring
        self._tracker = bytearray((counts == 0).tobytes())
        self._n_missing = self._tracker.count(0)
        #: rows whose dtype is not that of the array: feature -> [(frame, slice, rows)]
        self._other_dtypes: dict[str, list[tuple[int, slice, AnyArray]]] = {}
        self._schema = Schema() if schema is None else schema
        self._memory = RecycledMemory(0) if memory is None else memory
        #: as long as all frames have the same layout
        self._packed: PackedRows | None = None

    @property
    def nev_idx(self) -> npt.NDArray[np.int64]:
        """Cumulative number of events, shape (frames,)."""
        return np.array(self._stops, dtype=np.int64)

    @property
    def indices_for_data(self) -> npt.NDArray[np.uint32]:
        """For each event the index of its frame, shape (size,)."""
        first = self.index_offset
        frames = np.arange(first, first + self.num_frames, dtype=np.uint32)
        return np.repeat(frames, np.array(self._counts, dtype=np.int64))

    @property
    def feat_nevents(self) -> Any:
        """Number of events of each frame."""
        return self._counts.tolist() if self._given_counts is None else self._given_counts

    @property
    def is_final(self) -> bool:
        """Whether no more frames will be added."""
        return self._is_final

    def extend(self, counts: Sequence[int], *, is_final: bool) -> None:
        """Add frames at the end of the range.

        Parameters
        ----------
        counts
            Number of events of each.
        is_final
            Whether these are the last ones.
        """
        for count in counts:
            self.size += count
            self._counts.append(count)
            self._stops.append(self.size)
            self._tracker.append(count == 0)
            self._n_missing += count != 0
        self.num_frames = len(self._counts)
        self._given_counts = None
        self._is_final = is_final
        if self._packed is not None:
            self._packed.grow(self.size)
        else:
            for feat, rows in self._events.items():
                self._events[feat] = _grown(rows, self.size)
        if is_final and not self._n_missing:
            self._complete()

    @property
    def events(self) -> dict[str, Any]:
        """Feature names to arrays of all frames' events, those of missing frames 0."""
        self._take_apart()
        return self._events

    @property
    def batch(self) -> dict[str, Any]:
        """The same; when all frames are there, some features may be `CompactRows`."""
        return self.events if self._packed is None else self._packed.unpacked(self._absent())

    def is_complete(self) -> bool:
        """Whether the events of all frames have been added."""
        return self._n_missing == 0 and self._is_final

    @property
    def n_missing(self) -> int:
        """Number of frames whose events have not been added."""
        return self._n_missing

    def missing_frames(self) -> list[int]:
        """Indices of the frames whose events have not been added."""
        return [frame + self.index_offset for frame in self._missing()]

    def _missing(self) -> list[int]:
        if not self._n_missing:
            return []
        return [frame for frame, is_there in enumerate(self._tracker) if not is_there]

    def add_events(self, index: int, events: Mapping[str, Any] | None) -> None:
        """Add the events of one frame.

        Parameters
        ----------
        index
            Index of the frame.
        events
            Feature names to arrays whose first axis is the event; None for a frame without
            events, which need not be added at all. `PackedEvents` of one layout are copied as
            bytes.

        Raises
        ------
        EventError
            The frame is outside the range or was added before, or its events do not fit; nothing
            of it was added.
        """
        frame = index - self.index_offset
        if not 0 <= frame < self.num_frames:
            raise EventError(
                f"frame {index}: expected a frame from {self.index_offset} to "
                f"{self.index_offset + self.num_frames - 1}, got one outside this range"
            )
        is_packed = type(events) is PackedEvents  # a Mapping, which takes longer to find out
        mapping = events if is_packed or isinstance(events, Mapping) else None
        if mapping is None or not self._add_alike(index, frame, mapping):
            self._take_apart()
            arrays = self._check(index, self._counts[frame], events)
            if not self._counts[frame]:
                return
            self._add_arrays(index, frame, arrays)
        self._note(frame)

    def add_packed(self, index: int, events: PackedEvents) -> bool:
        """Add the events of one frame that are like those before; False: `add_events` has to."""
        frame = index - self.index_offset
        packed = self._packed
        if (
            packed is None
            or events.layout is not packed.layout
            or not 0 <= frame < self.num_frames
            or events.n_events != self._counts[frame]
            or self._tracker[frame]
            or not packed.place(self._stops[frame] - events.n_events, events)
        ):
            return False
        self._note(frame)
        return True

    def add_run(self, run: PackedRun) -> int:
        """Add the events of several frames that are like those before; gives their number.

        The first frame that is not, or that does not fit, ends it; `add_events` has to look at
        that one.
        """
        packed = self._packed
        if packed is None or run.layout is not packed.layout:
            return 0
        frames = run.frames - self.index_offset
        n_frames = _length_of_start((frames >= 0) & (frames < self.num_frames))
        if not n_frames:
            return 0
        frames = frames[:n_frames]
        # views, for this call only: what is looked at cannot grow
        tracker = np.frombuffer(self._tracker, np.uint8)
        counts = np.frombuffer(self._counts, np.int64)[frames]
        fits = (counts == run.counts[:n_frames]) & (tracker[frames] == 0)
        fits[1:] &= frames[1:] > frames[:-1]
        n_frames = _length_of_start(fits)
        try:
            if n_frames:
                frames, counts = frames[:n_frames], counts[:n_frames]
                rows = np.frombuffer(self._stops, np.int64)[frames] - counts
                packed.place_run(rows, run.part(0, n_frames))
                tracker[frames] = 1
                self._count_added(n_frames)
        finally:
            del tracker  # an error keeps the names of this call, and the frames have to grow on
        return n_frames

    def _note(self, frame: int) -> None:
        """The events of a frame have been added."""
        self._tracker[frame] = True
        self._count_added(1)

    def _count_added(self, n_frames: int) -> None:
        self._n_missing -= n_frames
        if self._n_missing == 0 and self._is_final:
            self._complete()

    def _complete(self) -> None:
        if self._packed is not None:
            dtypes = self._packed.layout.dtypes
        else:
            self._events.update(self._unified_dtypes(self.num_frames))
            self._other_dtypes.clear()
            arrays = {f: array for f, array in self._events.items() if not is_contour(f)}
            dtypes = {feat: array.dtype for feat, array in arrays.items()}
        if not self._schema.dtypes:
            self._schema.dtypes = {
                feat: dtype
                for feat, dtype in dtypes.items()
                if feat in self._schema.item_shapes and feat != "mask"
            }

    def _add_arrays(self, index: int, frame: int, arrays: dict[str, Any]) -> None:
        if self._tracker[frame]:
            raise EventError(
                f"frame {index}: expected each frame once, got it again; the events that came "
                f"first were kept"
            )
        self._schema.check(index, arrays)
        for feat, dtype in self._schema.dtypes.items():
            if arrays[feat].dtype != dtype:
                arrays[feat] = cast_lossless(arrays[feat], dtype, feat, f", frame {index}")
        for feat, data in arrays.items():
            self._place(feat, frame, self._rows(frame), data)

    def _add_alike(self, index: int, frame: int, events: Mapping[str, Any]) -> bool:
        """Copy a frame that is like those before; False: look at it feature by feature."""
        if not events or self._tracker[frame] or not self._counts[frame]:
            return False
        n_events = self._counts[frame]
        first = self._stops[frame] - n_events
        packed = self._packed
        if isinstance(events, PackedEvents):
            if events.n_events != n_events:
                return False
            packed = packed or self._begin_alike(events.layout)
            if packed is None or packed.layout is not events.layout:
                return False
            is_placed = packed.place(first, events)
        else:
            packed = packed or self._begin_alike(self._schema.layout_of(events))
            is_placed = packed is not None and packed.place_plain(first, n_events, events)
        if packed is None or not is_placed or not self._schema.takes(index, packed.layout):
            return False
        self._packed = packed
        return True

    def _begin_alike(self, layout: Layout | None) -> PackedRows | None:
        if layout is None or self._events or not can_be_copied(layout):
            return None
        return PackedRows(layout, self.size, self._memory, self._n_expected)

    def _take_apart(self) -> None:
        """Go on with one array per feature."""
        if self._packed is not None:
            features = self._packed.unpacked(self._absent())
            self._events.update({feat: as_array(rows) for feat, rows in features.items()})
            self._packed = None

    def _absent(self) -> list[slice]:
        """Rows of the frames whose events have not been added."""
        return [self._rows(frame) for frame in self._missing()]

    def require_feature(self, feat: str, sample_data: npt.ArrayLike) -> AnyArray:
        """Array of a feature; created where it does not exist.

        Parameters
        ----------
        feat
            Feature name.
        sample_data
            One event; gives shape and dtype.

        Returns
        -------
        ndarray, shape (size, ...)
        """
        self._take_apart()
        if feat not in self._events:
            sample = np.asarray(sample_data)
            self._events[feat] = np.zeros((self.size, *sample.shape), dtype=sample.dtype)
        array: AnyArray = self._events[feat]
        return array

    def take_leading(self) -> tuple[int, dict[str, Any]]:
        """Events of the frames before the first missing one, to save what came before an error.

        Returns
        -------
        n_frames
            Number of frames.
        events
            Feature names to arrays of their events.
        """
        self._take_apart()
        n_frames = self._tracker.index(0) if self._n_missing else self.num_frames
        unified: dict[str, AnyArray] = {}
        while n_frames:
            try:
                unified = self._unified_dtypes(n_frames)
                break
            except _MisfitError as exc:
                n_frames = exc.frame
        n_events = self._stops[n_frames - 1] if n_frames else 0
        events = {**self._events, **unified}
        return n_frames, {feat: array[:n_events] for feat, array in events.items()}

    def _check(
        self, index: int, n_events: int, events: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Arrays of a frame, each with the announced number of events."""
        if events is not None and not isinstance(events, Mapping):
            raise EventError(
                f"frame {index}: expected a dict of arrays or None, got {type(events).__name__}"
            )
        try:
            flat = flatten_group_features(events or {})
            arrays = {feat: _as_rows(feat, value) for feat, value in flat.items()}
        except EventError as exc:
            raise EventError(f"frame {index}, {exc}") from exc
        for feat, data in arrays.items():
            if len(data) != n_events:
                raise EventError(
                    f"frame {index}, feature '{feat}': expected {n_events} events (feat_nevents), "
                    f"got {len(data)}; set feat_nevents before the events are put"
                )
        if n_events and not arrays:
            raise EventError(
                f"frame {index}: expected {n_events} events (feat_nevents), got none; set "
                f"feat_nevents to 0 for a frame without events"
            )
        return arrays

    def _place(self, feat: str, frame: int, rows: slice, data: Any) -> None:
        array = self._events.get(feat)
        if is_contour(feat):
            if array is None:
                array = self._events[feat] = [None] * self.size
            array[rows] = [item.copy() for item in data]  # they may be views of the queue's memory
            return
        if array is None:
            array = np.zeros((self.size, *data.shape[1:]), dtype=data.dtype)
            self._events[feat] = array
        if array.dtype == data.dtype:
            array[rows] = data
        else:
            self._other_dtypes.setdefault(feat, []).append((frame, rows, data.copy()))

    def _rows(self, frame: int) -> slice:
        """Rows of a frame's events, in a range that starts with frame 0."""
        return slice(self._stops[frame] - self._counts[frame], self._stops[frame])

    def _unified_dtypes(self, n_frames: int) -> dict[str, AnyArray]:
        """Features that came with several dtypes, in that of the first frame with events.

        Only frames before `n_frames` are looked at, all of which have to be there.

        Raises
        ------
        _MisfitError
            A value would change by it.
        """
        unified: dict[str, AnyArray] = {}
        frames = [frame for frame in range(n_frames) if self._counts[frame]]
        for feat, found in self._other_dtypes.items():
            others = {frame: data for frame, _, data in found if frame < n_frames}
            if not others:
                continue
            array: AnyArray = self._events[feat]
            is_mask = feat == "mask"
            dtype = np.dtype(np.uint8) if is_mask else others.get(frames[0], array).dtype
            unified[feat] = np.zeros(array.shape, dtype=dtype)
            for frame in frames:
                data = others.get(frame, array[self._rows(frame)])
                where = f", frame {self.index_offset + frame}"
                try:
                    data = cast_lossless(
                        mask_to_stored(data) if is_mask else data, dtype, feat, where
                    )
                except EventError as exc:
                    raise _MisfitError(str(exc), frame) from exc
                unified[feat][self._rows(frame)] = data
        return unified


class _MisfitError(EventError):
    """An event error that knows its frame, counted from the beginning of the range."""

    def __init__(self, message: str, frame: int) -> None:
        super().__init__(message, frame)
        self.frame = frame

    def __str__(self) -> str:
        return str(self.args[0])


def _length_of_start(are_good: npt.NDArray[np.bool_]) -> int:
    """How many are good before the first one that is not."""
    # not argmin: numpy gives up the GIL for it, and waits for the encoders to get it back
    found = are_good.tobytes().find(b"\0")
    return len(are_good) if found < 0 else found


def _grown(array: Any, size: int) -> Any:
    """A feature's rows, with more rows of 0 (contours: None) behind them."""
    if isinstance(array, list):
        return array + [None] * (size - len(array))
    grown = np.zeros((size, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


def _item_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shape of one event of each feature, contours included, in the layout's order."""
    return {feat: layout.item_shapes.get(feat, ()) for feat in layout.names}


def _as_rows(feat: str, value: Any) -> Any:
    """A feature's events in one frame; a mask of bool becomes 0/255 when it is written."""
    if is_contour(feat):
        return as_item_arrays(feat, value)
    if feat == "mask" and isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.ndim:
        return value
    return to_stored(feat, value)
