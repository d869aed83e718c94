"""PackedEvents: the events of a frame as one block of bytes, with a layout that is known before.

Alone here: which features are packed, in which order, and where their bytes are. Pure: no I/O, no
waiting. Invariant: what is unpacked holds the same features, in the same order, with the same
dtypes, shapes and values as what was packed.

A block holds one row per event with all scalar features (features of one dtype side by side, the
wide ones first), then one array per feature whose events are arrays. What does not fit into this
(contours, lists, objects) is kept beside it, feature by feature.

An array stands there in one of three forms: *plain*; as *bits*, where its dtype is bool; or
*shared*: each event has a number of 8 bytes there, and the few arrays that these stand for are
kept beside the block. Which one is part of the layout.
"""

from __future__ import annotations

import enum
import math
import operator
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..format.features import FRAME_INFO_FEATURES
from ..store.background import BACKGROUND
from ..store.compact_rows import AnyRows, BitRows, CompactRows, RepeatedRows

__all__ = [
    "Column",
    "Form",
    "Layout",
    "MisfitError",
    "PackedEvents",
    "SharedValues",
    "Spec",
    "analyse",
    "compacted",
]

AnyArray = npt.NDArray[Any]

#: Every array of a block starts at a multiple of this; the widest dtype (long double) has 16.
ALIGNMENT_BYTES: Final = 16
#: Numbers of events per block for which the offsets are kept.
KEPT_OFFSETS: Final = 512
#: Events of fewer bytes are packed as they are.
LEAST_COMPACT_BYTES: Final = 1024
#: Features whose events often are the same as those before.
REPEATING: Final = frozenset({BACKGROUND})

#: The bytes of the arrays that shared columns have, by number. 0 is not among them: no events.
SharedValues: TypeAlias = Mapping[int, npt.NDArray[np.uint8]]


class Form(enum.Enum):
    """How the events of a feature stand in a block."""

    PLAIN = "plain"
    #: one bit for each value
    BITS = "bits"
    #: the number of a shared value
    SHARED = "shared"


class MisfitError(Exception):
    """Events do not have the layout that was tried; never leaves this package."""


class Column(NamedTuple):
    """One feature, or one trace of it."""

    #: keys that lead to it: ("deform",) or ("trace", "fl1_raw")
    path: tuple[str, ...]
    #: None: not packed
    dtype: str | None
    item_shape: tuple[int, ...]
    form: Form = Form.PLAIN

    @property
    def item_bytes(self) -> int:
        """Size of one event of a packed column."""
        return math.prod(self.item_shape) * np.dtype(self.dtype).itemsize

    @property
    def name(self) -> str:
        """Name as it is stored."""
        return "/".join(self.path)


#: All columns in the order of the events; two layouts are equal if their specs are.
Spec: TypeAlias = tuple[Column, ...]


class ArrayColumn(NamedTuple):
    """One feature whose events are arrays, as each block needs it.

    Attributes
    ----------
    name, form
        As of its `Column`.
    place
        Which of the values that `Layout.take` gives.
    dtype, item_shape
        Of the events.
    stored_dtype, stored_shape, stored_bytes
        Of what stands in a block for each event.
    """

    name: str
    form: Form
    place: int
    dtype: np.dtype[Any]
    item_shape: tuple[int, ...]
    stored_dtype: np.dtype[Any]
    stored_shape: tuple[int, ...]
    stored_bytes: int

    @classmethod
    def of(cls, column: Column, place: int) -> ArrayColumn:
        """That of a column."""
        dtype, stored_shape = np.dtype(column.dtype), column.item_shape
        stored_dtype = dtype
        if column.form is Form.BITS:
            stored_dtype, stored_shape = np.dtype(np.uint8), (-(-math.prod(stored_shape) // 8),)
        elif column.form is Form.SHARED:
            stored_dtype, stored_shape = np.dtype(np.int64), ()
        n_bytes = math.prod(stored_shape) * stored_dtype.itemsize
        return cls(
            column.name, column.form, place, dtype, column.item_shape,
            stored_dtype, stored_shape, n_bytes,
        )  # fmt: skip

    def rows(self, stored: AnyArray, shared: SharedValues) -> AnyRows:
        """The events.

        Parameters
        ----------
        stored
            What stands in a block, shape (n_events, *stored_shape).
        shared
            At least the values that are meant.
        """
        if self.form is Form.BITS:
            return BitRows(stored, self.item_shape)
        if self.form is Form.PLAIN:
            return stored
        if not len(stored):
            return np.empty((0, *self.item_shape), self.dtype)
        numbers, index = np.unique(stored, return_inverse=True)
        # one and the same array may have several numbers
        places: dict[int, int] = {}
        values: list[AnyArray] = []
        renumbered = np.empty(len(numbers), np.intp)
        for place, number in enumerate(numbers.tolist()):
            n_bytes = math.prod(self.item_shape) * self.dtype.itemsize
            data = shared[number] if number else np.zeros(n_bytes, np.uint8)
            if id(data) not in places:
                places[id(data)] = len(values)
                values.append(data.view(self.dtype).reshape(self.item_shape))
            renumbered[place] = places[id(data)]
        return RepeatedRows(values, renumbered[index])


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


_BYTE: Final = np.dtype(np.uint8)
_dtype_of, _ndim_of = operator.attrgetter("dtype"), operator.attrgetter("ndim")


def _is_packable(value: Any) -> bool:
    return (
        type(value) is np.ndarray
        and value.ndim > 0
        and value.dtype.kind in "biuf"
        and value.dtype.isnative
    )


def analyse(events: Mapping[str, Any]) -> tuple[Spec, int] | None:
    """Find out how events can be packed.

    Parameters
    ----------
    events
        Feature names to arrays whose first axis is the event, or to anything else.

    Returns
    -------
    spec, n_events
        None if nothing can be packed: no features, names that are none, uneven lengths.
    """
    columns: list[Column] = []
    lengths: set[int] = set()
    for feat, value in events.items():
        if not isinstance(feat, str) or not feat or "/" in feat:
            return None
        nested = feat == "trace" and type(value) is dict and bool(value)
        if nested and all(isinstance(k, str) and _is_packable(v) for k, v in value.items()):
            named: list[tuple[tuple[str, ...], Any]]
            named = [((feat, name), array) for name, array in value.items()]
        elif _is_packable(value):
            named = [((feat,), value)]
        else:
            columns.append(Column((feat,), None, ()))
            continue
        for path, array in named:
            columns.append(Column(path, array.dtype.str, array.shape[1:]))
            lengths.add(len(array))
    if len(lengths) != 1:
        return None
    return tuple(columns), lengths.pop()


def compacted(spec: Spec, n_most: int, plain: Container[str] = ()) -> Spec:
    """The same columns in forms that take less room.

    Parameters
    ----------
    spec
        Columns, all plain.
    n_most
        Shared values have no more bytes than that.
    plain
        Names of those that stay as they are.
    """
    columns = []
    for column in spec:
        form = Form.PLAIN
        is_array = column.dtype is not None and bool(column.item_shape)
        if is_array and column.name not in plain and column.item_bytes >= LEAST_COMPACT_BYTES:
            if np.dtype(column.dtype) == np.bool_:
                form = Form.BITS
            elif column.name in REPEATING and column.item_bytes <= n_most:
                form = Form.SHARED
        columns.append(column._replace(form=form))
    return tuple(columns)


class Layout:
    """Where the bytes of a block are.

    Parameters
    ----------
    spec
        The columns.

    Attributes
    ----------
    names : tuple of str
        All columns in the order of the events.
    scalar_dtype : numpy.dtype
        One event's scalar features.
    arrays : list of ArrayColumn
        Features whose events are arrays.
    shared : list of ArrayColumn
        Those of `arrays` that have numbers of shared values.
    rest : tuple of str
        Features that are not packed.
    reserved : list of str
        Features with a name that the queue writers use themselves.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.names = tuple(column.name for column in spec)
        packed = [column for column in spec if column.dtype is not None]
        self.rest = tuple(column.name for column in spec if column.dtype is None)
        self.reserved = sorted(set(self.names) & set(FRAME_INFO_FEATURES))
        self.item_shapes = {column.name: column.item_shape for column in packed}
        self.dtypes = {column.name: np.dtype(column.dtype) for column in packed}
        #: keys of the events, and of their traces
        self.keys = tuple(dict.fromkeys(column.path[0] for column in spec))
        self._trace_keys = tuple(column.path[1] for column in spec if len(column.path) > 1)
        self._is_flat = not self.rest and not self._trace_keys
        self._packed_paths = [column.path for column in packed]
        self._dtypes = list(self.dtypes.values())
        self._n_axes = sum(1 + len(column.item_shape) for column in packed)

        places = {column.name: place for place, column in enumerate(packed)}
        scalars = [column.name for column in packed if not column.item_shape]
        by_dtype: dict[np.dtype[Any], list[str]] = {}
        for name in sorted(scalars, key=lambda name: -self.dtypes[name].itemsize):
            by_dtype.setdefault(self.dtypes[name], []).append(name)
        offset = 0
        offsets: dict[str, int] = {}
        #: dtype, offset in a row, number, and how to take these features from a list of values
        self._groups: list[tuple[np.dtype[Any], int, int, Callable[[Any], Any]]] = []
        for dtype, names in by_dtype.items():
            first, *others = (places[name] for name in names)
            take: Callable[[Any], Any]  # gives a sequence, also of one
            if others:
                take = operator.itemgetter(first, *others)
            else:
                take = operator.itemgetter(slice(first, first + 1))
            self._groups.append((dtype, offset, len(names), take))
            for name in names:
                offsets[name] = offset
                offset += dtype.itemsize
        widest = max((dtype.itemsize for dtype in by_dtype), default=1)
        self.row_bytes = -(-offset // widest) * widest
        self.scalar_dtype = np.dtype(
            {
                "names": scalars,
                "formats": [self.dtypes[name] for name in scalars],
                "offsets": [offsets[name] for name in scalars],
                "itemsize": self.row_bytes,
            }
        )
        arrays = [column for column in packed if column.item_shape]
        self.arrays = [ArrayColumn.of(column, places[column.name]) for column in arrays]
        self.shared = [array for array in self.arrays if array.form is Form.SHARED]
        self.is_plain = all(array.form is Form.PLAIN for array in self.arrays)
        #: bytes of an event in which all is plain
        self.event_bytes = self.row_bytes + sum(column.item_bytes for column in arrays)
        self._offsets: dict[int, tuple[int, ...]] = {}
        #: of a block with one event: where it has its arrays
        self._arrays_of_one = [
            (array.place, start, start + array.stored_bytes, array.form is Form.BITS,
             array.stored_dtype == _BYTE)
            for array, start in zip(self.arrays, self.offsets(1), strict=False)
        ]  # fmt: skip

    def offsets(self, n_events: int) -> tuple[int, ...]:
        """Where each array of a block begins; last: the size of the block in bytes."""
        found = self._offsets.get(n_events)
        if found is None:
            offset = _aligned(n_events * self.row_bytes)
            starts = []
            for array in self.arrays:
                starts.append(offset)
                offset = _aligned(offset + n_events * array.stored_bytes)
            found = (*starts, offset)
            if len(self._offsets) < KEPT_OFFSETS:
                self._offsets[n_events] = found
        return found

    def block_bytes(self, n_events: int) -> int:
        """Size of a block in bytes."""
        return self.offsets(n_events)[-1]

    def take(self, events: Mapping[str, Any]) -> tuple[list[Any], int]:
        """Values of the packed columns, and their number of events.

        Raises
        ------
        MisfitError
            Keys, lengths, dtypes or shapes are others.
        """
        try:
            if self._is_flat:
                values = list(events.values())
            elif self._trace_keys and tuple(events["trace"]) != self._trace_keys:
                raise MisfitError
            else:
                values = [
                    events[path[0]] if len(path) == 1 else events[path[0]][path[1]]
                    for path in self._packed_paths
                ]
            lengths = set(map(len, values))
            if len(lengths) != 1:
                raise MisfitError
            n_events = lengths.pop()
            # all at once: there are some 50 of them; what has a length has one axis at least
            if list(map(_dtype_of, values)) != self._dtypes:
                raise MisfitError
            if sum(map(_ndim_of, values)) != self._n_axes:
                raise MisfitError
            for array in self.arrays:
                value = values[array.place]
                if type(value) is not np.ndarray:  # of another library
                    value = values[array.place] = np.asarray(value, array.dtype)
                if value.shape != (n_events, *array.item_shape):
                    raise MisfitError
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as exc:
            raise MisfitError from exc
        return values, n_events

    def _pack_arrays_of_one(self, values: Sequence[Any], memory: Any, offset: int) -> None:
        """As bytes, in half of the time that an array in between takes."""
        for place, start, stop, is_bits, is_bytes in self._arrays_of_one:
            value = values[place]
            if is_bits:
                value = np.packbits(value)
            elif is_bytes:
                value = value.reshape(-1)
            else:
                value = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            memory[offset + start : offset + stop] = value

    def pack(self, values: Sequence[Any], n_events: int, memory: Any, offset: int) -> None:
        """Write a block.

        Parameters
        ----------
        values
            As `take` gives them; of those in `shared`, the number of each event's value.
        n_events
            Their number of events.
        memory
            Writable memoryview of bytes.
        offset
            Where the block begins.

        Raises
        ------
        MisfitError
            Something looks like an array and is none; the block's bytes are undefined.
        """
        self.pack_scalars(values, n_events, memory, offset)
        if n_events == 1:
            self._pack_arrays_of_one(values, memory, offset)
            return
        for array, start in zip(self.arrays, self.offsets(n_events), strict=False):
            value = values[array.place]
            begin = offset + start
            if array.form is Form.BITS:
                n_bits = math.prod(array.item_shape)
                value = np.packbits(value.reshape(n_events, n_bits), axis=1)
            shape = (n_events, *array.stored_shape)
            np.ndarray(shape, array.stored_dtype, memory, begin)[...] = value

    def pack_scalars(self, values: Sequence[Any], n_events: int, memory: Any, offset: int) -> None:
        """Write the rows of scalar features only; as `pack`."""
        try:
            for dtype, column, n_columns, take in self._groups:
                arrays = take(values)
                start = offset + column
                if n_events == 1:
                    memory[start : start + n_columns * dtype.itemsize] = _joined(arrays, dtype)
                    continue
                strides = (self.row_bytes, dtype.itemsize)
                rows = np.ndarray((n_events, n_columns), dtype, memory, start, strides)
                joined = np.concatenate(arrays, dtype=dtype, casting="no")
                rows[...] = joined.reshape(n_columns, n_events).T
        except (TypeError, ValueError) as exc:
            raise MisfitError from exc


def _joined(arrays: Sequence[Any], dtype: np.dtype[Any]) -> bytes:
    """Bytes of arrays of shape (1,), in a quarter of the time that concatenating takes."""
    try:
        return b"".join(arrays)
    except (BufferError, TypeError):  # something of another library that is as good as an array
        return np.concatenate(arrays, dtype=dtype, casting="no").tobytes()


class Lease:
    """Whether memory that was lent may still be looked at."""

    __slots__ = ("is_over",)

    def __init__(self) -> None:
        self.is_over = False


class PackedEvents(Mapping[str, Any]):
    """Events of one frame in a block of bytes; a mapping of feature names to arrays.

    The traces are features of their own here ("trace/fl1_raw"), and all arrays are read-only.
    Those that `EventQueue.get_many` gives are views of the queue's memory.

    Parameters
    ----------
    layout
        Where the bytes are.
    memory
        Read-only buffer.
    offset
        Where the block begins.
    n_block
        Number of events in the block.
    rest
        The features that are not packed.
    lease
        Says whether the memory is still ours to read.
    first, n_events
        The events of the block that are meant; default: all.
    shared
        At least the shared values that the block has.

    Attributes
    ----------
    layout : Layout
        As given.
    n_events : int
        Number of events.
    rest : dict
        As given.
    shared : mapping
        As given.
    """

    __slots__ = (
        "_first", "_lease", "_memory", "_n_block", "_offset", "layout", "n_events", "rest",
        "shared",
    )  # fmt: skip

    def __init__(
        self,
        layout: Layout,
        memory: Any,
        offset: int,
        n_block: int,
        rest: dict[str, Any],
        lease: Lease | None = None,
        first: int = 0,
        n_events: int | None = None,
        shared: SharedValues | None = None,
    ) -> None:
        self.layout = layout
        self.rest = rest
        self.shared: SharedValues = {} if shared is None else shared
        self.n_events = n_block if n_events is None else n_events
        self._memory = memory
        self._offset = offset
        self._n_block = n_block
        self._first = first
        self._lease = lease

    def part(self, first: int, n_events: int) -> PackedEvents:
        """Give some of the events, as a view."""
        rest = {feat: value[first : first + n_events] for feat, value in self.rest.items()}
        return PackedEvents(
            self.layout,
            self._memory,
            self._offset,
            self._n_block,
            rest,
            self._lease,
            self._first + first,
            n_events,
            self.shared,
        )

    @property
    def scalars(self) -> AnyArray:
        """All scalar features as one structured array of shape (n_events,)."""
        self._check()
        layout = self.layout
        offset = self._offset + self._first * layout.row_bytes
        return np.ndarray((self.n_events,), layout.scalar_dtype, self._memory, offset)

    def parts(self) -> list[memoryview]:
        """The bytes of `scalars`, and of each of `arrays`."""
        self._check()
        layout, memory, first, n_events = self.layout, self._memory, self._first, self.n_events
        start = self._offset + first * layout.row_bytes
        found = [memory[start : start + n_events * layout.row_bytes]]
        for array, offset in zip(layout.arrays, layout.offsets(self._n_block), strict=False):
            start = self._offset + offset + first * array.stored_bytes
            found.append(memory[start : start + n_events * array.stored_bytes])
        return found

    @property
    def stored(self) -> list[AnyArray]:
        """What stands in the block of each of the layout's `arrays`, shape (n_events, ...)."""
        self._check()
        layout = self.layout
        return [
            np.ndarray(
                (self.n_events, *array.stored_shape),
                array.stored_dtype,
                self._memory,
                self._offset + start + self._first * array.stored_bytes,
            )
            for array, start in zip(layout.arrays, layout.offsets(self._n_block), strict=False)
        ]

    @property
    def arrays(self) -> dict[str, AnyArray]:
        """Features whose events are arrays: name to array of shape (n_events, ...)."""
        return {column.name: self._array(n) for n, column in enumerate(self.layout.arrays)}

    @property
    def nbytes(self) -> int:
        """Size in bytes, features that are not packed included; as if all was plain."""
        n_bytes = self.n_events * self.layout.event_bytes
        return n_bytes + sum(map(_size_bytes, self.rest.values()))

    def __getitem__(self, feat: str) -> Any:
        """Give the events of one feature."""
        if feat in self.rest:
            return self.rest[feat]
        if not self.layout.item_shapes[feat]:
            return self.scalars[feat]
        return self._array(next(n for n, c in enumerate(self.layout.arrays) if c.name == feat))

    def _array(self, number: int) -> AnyArray:
        """Events of the feature with this number in the layout's `arrays`."""
        rows = self.layout.arrays[number].rows(self.stored[number], self.shared)
        if isinstance(rows, CompactRows):
            array = np.asarray(rows)
            array.flags.writeable = False
            return array
        return rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.names)

    def __len__(self) -> int:
        return len(self.layout.names)

    def block(self) -> bytes | bytearray:
        """The events as a block of their own, without features that are not packed."""
        layout = self.layout
        if self.n_events == self._n_block:
            self._check()
            return bytes(
                self._memory[self._offset : self._offset + layout.block_bytes(self.n_events)]
            )
        block = bytearray(layout.block_bytes(self.n_events))
        for start, part in zip((0, *layout.offsets(self.n_events)), self.parts(), strict=False):
            block[start : start + len(part)] = part
        return block

    def copy(self) -> PackedEvents:
        """The same events in memory of their own."""
        memory = memoryview(self.block()).toreadonly()
        return PackedEvents(
            self.layout, memory, 0, self.n_events, self.rest, shared=self.own_shared()
        )

    def own_shared(self) -> dict[int, npt.NDArray[np.uint8]]:
        """The shared values that these events have."""
        numbers = {number for found in self._shared_numbers() for number in found.tolist()}
        return {number: self.shared[number] for number in sorted(numbers)}

    def last_shared(self) -> int | None:
        """The smallest number of a shared value that the last event has; None: it has none."""
        if not self.n_events:
            return None
        return min((int(found[-1]) for found in self._shared_numbers()), default=None)

    def _shared_numbers(self) -> list[AnyArray]:
        """Of each feature that has some: the numbers of the events' shared values."""
        columns = zip(self.layout.arrays, self.stored, strict=True)
        return [stored for column, stored in columns if column.form is Form.SHARED]

    def unpacked(self) -> dict[str, Any]:
        """The events as they were packed, in memory of their own."""
        scalars = self.scalars
        arrays = {
            column.name: column.rows(stored, self.shared)
            for column, stored in zip(self.layout.arrays, self.stored, strict=True)
        }
        events: dict[str, Any] = {}
        for column in self.layout.spec:
            name = column.name
            if column.dtype is None:
                events[name] = self.rest[name]
                continue
            value = arrays[name] if column.item_shape else scalars[name]
            value = np.asarray(value) if isinstance(value, CompactRows) else value.copy()
            if len(column.path) == 1:
                events[name] = value
            else:
                events.setdefault(column.path[0], {})[column.path[1]] = value
        return events

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.unpacked(),)

    def _check(self) -> None:
        if self._lease is not None and self._lease.is_over:
            raise UsageError(
                "PackedEvents: expected to be read before the next call of get or get_many of "
                "its queue, which takes the memory back; call copy() to keep them"
            )


def _size_bytes(value: Any) -> int:
    """Estimate the size of a feature that is not packed."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_size_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_size_bytes, value)) + 64 * len(value)
    return 64
