"""Pickled frames that are alike: their bytes are taken as they are, without unpickling.

Alone here: where the values of a frame stand in its pickle. Invariant: a message is taken apart
this way only if all its bytes but the values and the frame's index are those of a pickle of such
events; what comes out is what unpickling would have given.

Frames of one stream have the same features, so their pickles differ in a few places only. These
are found by pickling events of the same form whose values are marks. To unpickle some 50 arrays
takes 100 us, to compare and copy the bytes 10 us.
"""

from __future__ import annotations

from collections.abc import Mapping
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .packing import Layout, PackedEvents, Spec, analyse

__all__ = ["AlikeFrames"]

Bytes = npt.NDArray[np.uint8]

#: Forms that are kept (number of events, size of the index), and forms that are tried in vain.
_MOST_FORMS: Final = 256
_MOST_FAILURES: Final = 16
#: A mark that is shorter may be found where it is not.
_LEAST_MARK_BYTES: Final = 4
_SEED: Final = 20240917
#: Bytes of an index in a pickle: of 1, 2 or 4 bytes (opcodes BININT1, BININT2, BININT).
_INDEX_LIMITS: Final = ((2**8, 1), (2**16, 2), (2**31, 4))


class AlikeFrames:
    """Takes messages apart that are like those before them."""

    def __init__(self) -> None:
        #: by the size of the message
        self._forms: dict[int, list[_Form]] = {}
        self._layouts: dict[Spec, Layout] = {}
        self._n_forms = self._n_failures = 0

    def load(self, message: bytearray) -> Any:
        """What is pickled in a message.

        Parameters
        ----------
        message
            A pickle; it is not changed, but may be kept.

        Returns
        -------
        object
            ``(frame_index, PackedEvents)`` if it is like a frame before it; else as unpickled.
        """
        forms = self._forms.get(len(message))
        if forms is not None:
            found = np.frombuffer(message, np.uint8)
            for form in forms:
                if form.fits(found):
                    return form.take(message, found)
        item = ForkingPickler.loads(message)
        if self._n_failures < _MOST_FAILURES and self._n_forms < _MOST_FORMS:
            self._learn(message, item)
        return item

    def _learn(self, message: bytearray, item: Any) -> None:
        if type(item) is not tuple or len(item) != 2 or type(item[0]) is not int:
            return
        if type(item[1]) is not dict or not item[1]:
            return  # a frame without events
        form = self._form_of(message, *item)
        if form is None:
            self._n_failures += 1
            return
        self._n_forms += 1
        self._forms.setdefault(len(message), []).append(form)

    def _form_of(self, message: bytearray, index: int, events: dict[str, Any]) -> _Form | None:
        analysed = analyse(events)
        if analysed is None or not analysed[1]:
            return None
        spec, n_events = analysed
        layout = self._layouts.setdefault(spec, Layout(spec))
        if layout.rest:
            return None
        width = next((width for limit, width in _INDEX_LIMITS if 0 <= index < limit), None)
        marked = _Marked(layout, events)
        if width is None or not marked.is_clear:
            return None
        pickled = bytes(ForkingPickler.dumps((index, marked.events)))
        other = bytes(ForkingPickler.dumps((index ^ 1, marked.events)))
        starts = marked.find(pickled)
        if len(pickled) != len(message) or len(other) != len(message) or starts is None:
            return None
        differing = np.flatnonzero(_as_bytes(pickled) != _as_bytes(other))
        if len(differing) != 1:
            return None
        form = _Form(layout, n_events, pickled, starts, slice(differing[0], differing[0] + width))
        return form if form.fits(np.frombuffer(message, np.uint8)) else None


class _Marked:
    """Events of the same form, whose values are marks that are found again."""

    def __init__(self, layout: Layout, events: Mapping[str, Any]) -> None:
        rng = np.random.default_rng(_SEED)
        self._marks: dict[str, bytes] = {}
        self.events: dict[str, Any] = {}
        #: whether each array stands in a pickle with its own bytes in C order
        self.is_clear = True
        for column in layout.spec:
            *outer, key = column.path
            given: Any = events
            target: dict[str, Any] = self.events
            for name in outer:
                given, target = given[name], target.setdefault(name, {})
            array = given[key]
            self.is_clear &= bool(array.flags.c_contiguous) and array.nbytes >= _LEAST_MARK_BYTES
            mark = rng.bytes(array.nbytes)
            self._marks[column.name] = mark
            target[key] = np.frombuffer(mark, array.dtype).reshape(array.shape).copy()

    def find(self, pickled: bytes) -> dict[str, int] | None:
        """Where the values of each column begin; None: not once each."""
        starts = {}
        for name, mark in self._marks.items():
            starts[name] = pickled.find(mark)
            if starts[name] < 0 or pickled.find(mark, starts[name] + 1) >= 0:
                return None
        return starts


class _Form:
    """Where things are in the pickles of frames with one layout and one number of events."""

    def __init__(
        self,
        layout: Layout,
        n_events: int,
        pickled: bytes,
        starts: Mapping[str, int],
        index: slice,
    ) -> None:
        self._layout = layout
        self._n_events = n_events
        self._index = index
        is_fixed = np.ones(len(pickled), dtype=bool)
        is_fixed[index] = False
        n_bytes = {
            name: n_events * dtype.itemsize * int(np.prod(layout.item_shapes[name]))
            for name, dtype in layout.dtypes.items()
        }
        for name, start in starts.items():
            is_fixed[start : start + n_bytes[name]] = False
        self._places = np.flatnonzero(is_fixed)
        self._fixed = _as_bytes(pickled)[self._places]
        #: for each byte of the rows of scalars, its place in the pickle
        sources = np.zeros((n_events, layout.row_bytes), np.intp)
        fields: Mapping[str, Any] = layout.scalar_dtype.fields or {}
        for name, (dtype, offset, *_) in fields.items():
            size = dtype.itemsize
            here = starts[name] + np.arange(n_events * size).reshape(n_events, size)
            sources[:, offset : offset + size] = here
        self._sources = sources.reshape(-1)
        #: of each array: place in the block, place in the pickle, size
        self._arrays = [
            (offset, starts[column.name], n_bytes[column.name])
            for column, offset in zip(layout.arrays, layout.offsets(n_events), strict=False)
        ]
        self._block_bytes = layout.block_bytes(n_events)

    def fits(self, message: Bytes) -> bool:
        """Whether a message of that size is such a pickle."""
        return bool((message.take(self._places) == self._fixed).all())

    def take(self, message: bytearray, found: Bytes) -> tuple[int, PackedEvents]:
        """Index and events of a frame.

        Parameters
        ----------
        message, found
            The pickle, and the same as an array.
        """
        block = bytearray(self._block_bytes)
        target, source = memoryview(block), memoryview(message)
        rows = np.frombuffer(block, np.uint8, len(self._sources))
        found.take(self._sources, out=rows, mode="clip")  # "raise" would make a copy first
        for to, start, size in self._arrays:
            target[to : to + size] = source[start : start + size]
        index = int.from_bytes(source[self._index], "little")
        events = PackedEvents(self._layout, target.toreadonly(), 0, self._n_events, {})
        return index, events


def _as_bytes(data: bytes) -> Bytes:
    return np.frombuffer(data, np.uint8)
