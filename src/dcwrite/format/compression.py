"""Compression: frozen settings, their presets, and the HDF5 filter arguments that they mean.

Alone here: filter numbers and default levels. Invariant: a caller's dict is copied, never changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from ..errors import DataError

__all__ = ["FLETCHER32_FILTER", "ZSTD_FILTER", "Compression", "set_default_filter_kwargs"]

#: HDF5 registered filter plugin of Zstandard.
ZSTD_FILTER: Final = 32015
#: HDF5's own checksum filter (H5Z_FILTER_FLETCHER32).
FLETCHER32_FILTER: Final = 3
#: dclab calls a file properly compressed from this level on.
ARCHIVE_LEVEL: Final = 5
#: Bounds of the levels that are accepted (Zstandard's own regular ones).
LEVELS: Final = (1, 22)


@dataclass(frozen=True, slots=True)
class Compression:
    """How chunks are compressed; immutable.

    Parameters
    ----------
    level
        Zstandard level, 1 to 22; None: no compression.
    lowest_level
        With a value below `level`: the level may fall to this under load ("live").
    fletcher32
        Whether each chunk ends with a Fletcher-32 checksum.
    exact
        Whether to use Zstandard's own parameters of the level only. Else levels 1 to 5 may use
        others that make chunks as small in less time, or smaller; what does for a feature is
        compared while it is written (within 1.5 % of the smallest).
    """

    level: int | None = ARCHIVE_LEVEL
    lowest_level: int | None = None
    fletcher32: bool = True
    exact: bool = False

    #: Names of the presets, for command lines.
    PRESETS: ClassVar[tuple[str, ...]] = ("archive", "fast", "live", "none")

    def __post_init__(self) -> None:
        for name in ("level", "lowest_level"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int) or not LEVELS[0] <= value <= LEVELS[1]:
                raise DataError(
                    f"compression: expected {name} from {LEVELS[0]} to {LEVELS[1]} or None, "
                    f"got {value!r}; use a preset: {', '.join(self.PRESETS)}"
                )
        if self.lowest_level is not None and (
            self.level is None or self.lowest_level > self.level
        ):
            raise DataError(
                f"compression: expected lowest_level at or below level, got lowest_level "
                f"{self.lowest_level} and level {self.level}; use Compression.preset('live')"
            )

    @classmethod
    def preset(cls, name: str) -> Compression:
        """Settings by name.

        Parameters
        ----------
        name
            archive (Zstandard 5, the default of dcnum and dclab), fast (level 1), live (5, or
            lower while the writer cannot keep up), none (checksum only).
        """
        presets = {
            "archive": cls(),
            "fast": cls(level=1),
            "live": cls(lowest_level=1),
            "none": cls(level=None),
        }
        if name not in presets:
            raise DataError(
                f"compression preset: expected one of {', '.join(presets)}, got {name!r}"
            )
        return presets[name]

    def filter_kwargs(self) -> dict[str, Any]:
        """Arguments for ``h5py.Group.create_dataset``."""
        if self.level is None:
            return {"compression": None, "compression_opts": None, "fletcher32": self.fletcher32}
        return {
            "compression": ZSTD_FILTER,
            "compression_opts": (self.level,),
            "fletcher32": self.fletcher32,
        }


def set_default_filter_kwargs(
    ds_kwds: Mapping[str, Any] | None = None, compression: bool = True
) -> dict[str, Any]:
    """Complete dataset arguments with the default filters.

    Parameters
    ----------
    ds_kwds
        Keyword arguments for ``h5py.Group.create_dataset``; what is set stays.
    compression
        Whether to add Zstandard level 5 where no compression is named.

    Returns
    -------
    dict
        A new dict; the argument is not changed.
    """
    kwds = dict(ds_kwds or {})
    if compression and "compression" not in kwds:
        kwds.setdefault("compression", ZSTD_FILTER)
        kwds.setdefault("compression_opts", (ARCHIVE_LEVEL,))
    else:
        kwds.setdefault("compression", None)
        kwds.setdefault("compression_opts", None)
    kwds.setdefault("fletcher32", True)
    return kwds
