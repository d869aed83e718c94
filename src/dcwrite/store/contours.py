"""Contours: the ragged feature, one dataset per event, named by its number.

Alone here: how contours are numbered, appended, copied and taken back. Invariant: the names are
the numbers from 0, without gaps; a call that raises has added none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import EventError
from .hdf5 import refuse_far_data, storage_errors
from .objects import copy_object
from .open_file import OpenFile
from .row_source import rows_of, source_errors

__all__ = ["ContourStore"]

AnyArray = npt.NDArray[Any]


class ContourStore:
    """Contours of an open file.

    Parameters
    ----------
    file
        The file.
    ds_kwds
        Arguments for new datasets.

    Attributes
    ----------
    keeps_items : bool
        Whether new contours are kept for `take`; for streams.
    """

    def __init__(self, file: OpenFile, ds_kwds: Mapping[str, Any]) -> None:
        self.keeps_items = False
        self._file = file
        self._ds_kwds = ds_kwds
        #: number of those that were there before, and that are there now; None: none were written
        self._span: tuple[int, int] | None = None
        self._new_items: list[AnyArray] = []

    @property
    def count(self) -> int | None:
        """Number of contours of the events; None: this writer wrote none."""
        return None if self._span is None else self._span[1]

    def store(self, items: list[AnyArray], group_name: str) -> None:
        """Append contours."""
        with self._appending(group_name) as (group, made):
            for number, item in enumerate(items, len(group)):
                # an empty contour cannot be chunked, so it cannot be filtered either
                kwds = {**self._ds_kwds, "chunks": item.shape} if item.size else {}
                dset = group.create_dataset(str(number), data=item, **kwds)
                made.append(str(number))
                self._file.flush_dataset(dset)
        if self.keeps_items and group_name == "events":
            self._new_items += items

    def store_rows(
        self,
        source: h5py.Dataset | h5py.Group,
        rows: slice | npt.ArrayLike | None,
        group_name: str,
        on_rows: Callable[[int], None] | None,
    ) -> int:
        """Append contours of another open file as they are stored; their number.

        Raises
        ------
        EventError
            The source is no group.
        DamagedFileError
            One of them cannot be read.
        """
        if not isinstance(source, h5py.Group):
            raise EventError(f"feature 'contour': expected an open group, got {source!r}")
        wanted = rows_of(rows, len(source), "rows of feature 'contour'")
        numbers: Iterable[int] = (
            range(wanted.start, wanted.stop) if isinstance(wanted, slice) else wanted.tolist()
        )
        keeps_items = self.keeps_items and group_name == "events"
        items = []
        with self._appending(group_name) as (group, made):
            first = len(group)
            for number in numbers:
                with source_errors(source):
                    item = source[str(number)]
                    refuse_far_data(item)
                    if keeps_items:
                        items.append(np.asarray(item[()]))
                name = str(first + len(made))
                copy_object(source, str(number), group, name)
                made.append(name)
                if on_rows is not None:
                    on_rows(len(made))
        self._new_items += items
        return len(made)

    @contextmanager
    def _appending(self, group_name: str) -> Iterator[tuple[h5py.Group, list[str]]]:
        """The group, and a list of the names that are made in it: deleted on an error."""
        with storage_errors(self._file.path, "writing 'contour'"):
            group = self._file.h5.require_group(f"{group_name}/contour")
            start = len(group)  # not what was stored before: `h5` is open to others
            made: list[str] = []
            try:
                yield group, made
            except BaseException:
                if not self._file.failed:
                    for name in made:
                        del group[name]
                raise
        if group_name == "events":
            first = start if self._span is None else min(self._span[0], start)
            self._span = first, start + len(made)

    def truncate(self, lengths: Mapping[str, int] | int) -> None:
        """Give back contours at the end: as `EventStore.truncate`."""
        if self._span is None:
            return
        start, count = self._span
        keep = lengths if isinstance(lengths, int) else lengths.get("contour", start)
        keep = min(max(keep, start), count)
        for number in range(keep, count):
            del self._file.events[f"contour/{number}"]
        self._span = (start, keep)

    def take(self) -> tuple[int, list[AnyArray]] | None:
        """Number of the first contour since the last call, and the contours; None: none."""
        if self._span is None:
            return None
        items, self._new_items = self._new_items, []
        return self._span[1] - len(items), items
