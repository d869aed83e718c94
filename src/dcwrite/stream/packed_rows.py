"""PackedRows: events of many frames with one layout, in order, taken apart in the end.

Alone here: when events may be copied as bytes, without a look at each feature. Invariant: what it
gives in the end is what one assignment per frame and feature would have given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ..errors import EventError
from ..format.features import as_item_arrays, is_contour
from .packing import Layout, MisfitError, PackedEvents, SharedValues
from .recycled import RecycledMemory
from .runs import PackedRun

__all__ = ["PackedRows", "can_be_copied"]

AnyArray = npt.NDArray[Any]


def can_be_copied(layout: Layout) -> bool:
    """Whether events with this layout are stored as they are.

    Masks that are not bool are checked and converted; of what is not packed only contours are
    known.
    """
    dtypes = layout.dtypes
    if "contour" in dtypes or not dtypes:
        return False
    return dtypes.get("mask", np.dtype(bool)) == np.bool_ and all(map(is_contour, layout.rest))


class PackedRows:
    """Events of a range of frames that all have one layout.

    Parameters
    ----------
    layout
        The layout; `can_be_copied`.
    n_events
        Number of events of all frames.
    memory
        Where large arrays come from.
    n_expected
        Number of events for which there is room from the start.
    """

    def __init__(
        self, layout: Layout, n_events: int, memory: RecycledMemory, n_expected: int = 0
    ) -> None:
        self.layout = layout
        self._memory = memory
        self._n_events = n_events
        self._capacity = 0
        self._rows = np.empty(0, np.uint8)
        #: what stands in blocks of each of the layout's arrays
        self._stored: list[AnyArray] = []
        self._shared: dict[int, npt.NDArray[np.uint8]] = {}
        #: where the bytes of each go, and how many an event has
        self._targets: list[tuple[memoryview, int]] = []
        self._lists: dict[str, list[AnyArray | None]] = {
            name: [None] * n_events for name in layout.rest
        }
        self._make_room(max(n_events, n_expected))

    def _make_room(self, capacity: int) -> None:
        layout, old = self.layout, self._targets
        self._capacity = capacity
        self._rows = np.empty(capacity * layout.row_bytes, np.uint8)
        self._stored = [
            self._memory.empty((capacity, *array.stored_shape), array.stored_dtype)
            for array in layout.arrays
        ]
        arrays = (self._rows, *self._stored)
        self._targets = [
            (memoryview(cast("Any", array.reshape(-1).view(np.uint8))), item_bytes)
            for array, item_bytes in zip(
                arrays,
                (layout.row_bytes, *(column.stored_bytes for column in layout.arrays)),
                strict=True,
            )
        ]
        for (target, _), (source, _) in zip(self._targets, old, strict=False):
            target[: len(source)] = source

    def grow(self, n_events: int) -> None:
        """Make room for more events behind the others."""
        self._n_events = n_events
        if n_events > self._capacity:
            self._make_room(max(n_events, 2 * self._capacity))
        for items in self._lists.values():
            items.extend([None] * (n_events - len(items)))

    def place(self, first: int, events: PackedEvents) -> bool:
        """Copy the events of one frame to their rows; False: its contours do not fit."""
        if self._lists and not self._place_lists(first, events.n_events, events.rest):
            return False
        self._share(events.shared)
        # memoryviews: numpy takes longer for the same, and gives the GIL up in between
        for (target, item_bytes), source in zip(self._targets, events.parts(), strict=True):
            start = first * item_bytes
            target[start : start + len(source)] = source
        return True

    def place_run(self, rows: npt.NDArray[np.int64], run: PackedRun) -> None:
        """Copy the events of several frames with this layout to their rows.

        Parameters
        ----------
        rows
            First row of each frame.
        run
            The events.
        """
        targets = [
            np.frombuffer(target, np.uint8).reshape(self._capacity, item_bytes)
            for target, item_bytes in self._targets
        ]
        run.place(targets, rows)
        self._share(run.shared)

    def _share(self, values: SharedValues) -> None:
        """Keep the values that events have; a run has a few, and most are known."""
        if not values.keys() <= self._shared.keys():
            self._shared.update(values)

    def place_plain(self, first: int, n_events: int, events: Mapping[str, Any]) -> bool:
        """Copy events that are not packed; False: they do not have the layout."""
        layout = self.layout
        if tuple(events) != layout.keys or not layout.is_plain:
            return False
        try:
            values, n_found = layout.take(events)
            if n_found != n_events:
                return False
            target, row_bytes = self._targets[0]
            layout.pack_scalars(values, n_events, target, first * row_bytes)
        except MisfitError:
            return False
        if self._lists and not self._place_lists(first, n_events, events):
            return False
        for column, array in zip(layout.arrays, self._stored, strict=True):
            array[first : first + n_events] = values[column.place]
        return True

    def _place_lists(self, first: int, n_events: int, events: Mapping[str, Any]) -> bool:
        """Keep the contours of one frame; False: they do not fit, and none was kept."""
        found = {}
        for name in self._lists:
            try:
                found[name] = as_item_arrays(name, events[name])
            except EventError:
                return False
            if len(found[name]) != n_events:
                return False
        for name, items in found.items():
            self._lists[name][first : first + n_events] = items
        return True

    def unpacked(self, missing: Sequence[slice]) -> dict[str, Any]:
        """All features, in the order of the layout.

        Parameters
        ----------
        missing
            Rows whose events are not there; they are 0 (contours: None).

        Returns
        -------
        dict
            Names to arrays, or to `CompactRows`.
        """
        row_bytes = self.layout.row_bytes
        for absent in missing:
            self._rows[absent.start * row_bytes : absent.stop * row_bytes] = 0
            for array in self._stored:
                array[absent] = 0
        n_events = self._n_events
        rows = self._rows[: n_events * row_bytes]
        scalars = rows.view(self.layout.scalar_dtype) if rows.size else None
        features: dict[str, Any] = {}
        arrays = {
            column.name: column.rows(stored[:n_events], self._shared)
            for column, stored in zip(self.layout.arrays, self._stored, strict=True)
        }
        for name in self.layout.names:
            if name in arrays:
                features[name] = arrays[name]
            elif name in self._lists:
                features[name] = self._lists[name]
            else:
                assert scalars is not None
                features[name] = scalars[name].copy()
        return features
