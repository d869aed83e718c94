"""Backgrounds that repeat: each stored once, as an internal basin that is mapped to the events.

Alone here: what counts as a repeat, and the names in the file. Invariant: dclab and dcnum read the
same feature "image_bg" as without it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..format.basin import BASIN_GROUP, Basin
from ..format.features import to_stored
from .compact_rows import RepeatedRows, words_of

__all__ = ["BACKGROUND", "BackgroundBasin"]

#: The feature that is stored once per change.
BACKGROUND: Final = "image_bg"


#: Rows that are compared at a time: about 1 MiB of images.
MOST_AT_ONCE: Final = 32


def _words(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows as numbers that are as wide as possible, shape (n, ...), to be compared."""
    if rows.dtype.kind == "f":  # 0.0 and -0.0 are equal, and nan differs from itself
        return np.ascontiguousarray(rows).reshape(len(rows), -1)
    return words_of(rows)


class BackgroundBasin:
    """Takes the backgrounds of all events, and keeps those that differ from the one before.

    Attributes
    ----------
    n_stored
        Number of backgrounds that were kept.
    """

    #: the mapping's feature: the first of the ten, as a stream begins with an empty file
    MAPPING: Final = "basinmap0"

    def __init__(self) -> None:
        self.n_stored = 0
        self._last: npt.NDArray[Any] | None = None

    def split(self, data: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Backgrounds to store, and for each event the index of its background.

        Parameters
        ----------
        data
            Shape (n, H, W).
        """
        if isinstance(data, RepeatedRows) and len(data):
            values, firsts = data.one_per_run()
            stored, mapping = self.split(values)
            return stored, np.repeat(mapping, np.diff(firsts, append=len(data)))
        rows = to_stored(BACKGROUND, data)
        if not len(rows):
            return rows, np.empty(0, dtype=np.int64)
        is_new = self._differ_from_before(rows)
        mapping = self.n_stored - 1 + np.cumsum(is_new, dtype=np.int64)
        self.n_stored += int(is_new.sum())
        self._last = rows[-1].copy()
        return rows[is_new], mapping

    def _differ_from_before(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Of each background, whether it is another one than that of the event before."""
        is_new = np.empty(len(rows), dtype=bool)
        last = self._last
        words = _words(rows)
        if last is None or last.dtype != rows.dtype or last.shape != rows.shape[1:]:
            is_new[0] = True
        else:
            is_new[0] = (words[0] != _words(last[np.newaxis])[0]).any()
        first, n_rows = 1, 1
        while first < len(rows):
            # of a run of equal ones each is compared with its first, which stays in the
            # processor's cache; twice as many at a time as long as it goes on
            stop = min(len(rows), first + n_rows)
            differs = (words[first:stop] != words[first - 1]).any(axis=1)
            n_equal = int(differs.argmax()) if differs.any() else len(differs)
            is_new[first : first + n_equal] = False
            first += n_equal
            n_rows = min(MOST_AT_ONCE, 2 * n_rows)
            if n_equal < len(differs):
                is_new[first] = True
                first, n_rows = first + 1, 1
        return is_new

    @classmethod
    def description(cls) -> Basin:
        """The basin as it is described in the file."""
        return Basin(
            name="background",
            type="internal",
            format="h5dataset",
            locations=(BASIN_GROUP,),
            features=(BACKGROUND,),
            mapping=cls.MAPPING,
            description="Each background image once, mapped to the events",
        )
