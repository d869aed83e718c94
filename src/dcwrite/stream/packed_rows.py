"""PackedRows: events of many frames with one layout, in order, taken apart in the end.

Alone here: when events may be copied as bytes, without a look at each feature. Invariant: what it
gives in the end is what one assignment per frame and feature would have given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EventError
from ..format.features import as_item_arrays, is_contour
from .packing import Layout, MisfitError, PackedEvents

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
    """

    def __init__(self, layout: Layout, n_events: int) -> None:
        self.layout = layout
        self._rows = np.zeros(n_events * layout.row_bytes, np.uint8)
        self._arrays = {
            name: np.zeros((n_events, *item_shape), dtype)
            for name, dtype, item_shape in layout.arrays
        }
        self._lists: dict[str, list[AnyArray | None]] = {
            name: [None] * n_events for name in layout.rest
        }

    def place(self, rows: slice, events: PackedEvents) -> bool:
        """Copy the events of one frame to their rows; False: its contours do not fit."""
        if not self._place_lists(rows, events.rest):
            return False
        row_bytes = self.layout.row_bytes
        self._rows[rows.start * row_bytes : rows.stop * row_bytes] = events.scalar_bytes
        for name, array in events.arrays.items():
            self._arrays[name][rows] = array
        return True

    def place_plain(self, rows: slice, events: Mapping[str, Any]) -> bool:
        """Copy events that are not packed; False: they do not have the layout."""
        layout = self.layout
        if tuple(events) != layout.keys:
            return False
        start, stop = rows.start * layout.row_bytes, rows.stop * layout.row_bytes
        try:
            values, n_events = layout.take(events)
            if n_events != rows.stop - rows.start:
                return False
            layout.pack_scalars(values, n_events, self._rows, start)
        except MisfitError:
            self._rows[start:stop] = 0  # some of them may be there
            return False
        if not self._place_lists(rows, events):
            self._rows[start:stop] = 0
            return False
        for array, value in zip(self._arrays.values(), layout.array_values(values), strict=True):
            array[rows] = value
        return True

    def _place_lists(self, rows: slice, events: Mapping[str, Any]) -> bool:
        """Keep the contours of one frame; False: they do not fit, and none was kept."""
        found = {}
        for name in self._lists:
            try:
                found[name] = as_item_arrays(name, events[name])
            except EventError:
                return False
            if len(found[name]) != rows.stop - rows.start:
                return False
        for name, items in found.items():
            self._lists[name][rows] = items
        return True

    def unpacked(self) -> dict[str, Any]:
        """All features, in the order of the layout; rows without events are 0 (contours: None)."""
        scalars = self._rows.view(self.layout.scalar_dtype) if self._rows.size else None
        features: dict[str, Any] = {}
        for name in self.layout.names:
            if name in self._arrays:
                features[name] = self._arrays[name]
            elif name in self._lists:
                features[name] = self._lists[name]
            else:
                assert scalars is not None
                features[name] = scalars[name].copy()
        return features
