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

__all__ = ["BACKGROUND", "BackgroundBasin"]

#: The feature that is stored once per change.
BACKGROUND: Final = "image_bg"


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
        rows = to_stored(BACKGROUND, data)
        if not len(rows):
            return rows, np.empty(0, dtype=np.int64)
        is_new = np.empty(len(rows), dtype=bool)
        last = self._last
        is_new[0] = last is None or last.dtype != rows.dtype or not np.array_equal(rows[0], last)
        is_new[1:] = (rows[1:] != rows[:-1]).reshape(len(rows) - 1, -1).any(axis=1)
        mapping = self.n_stored - 1 + np.cumsum(is_new, dtype=np.int64)
        self.n_stored += int(is_new.sum())
        self._last = rows[-1].copy()
        return rows[is_new], mapping

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
