"""What recovery found, and how a file is reduced to its whole events.

Alone here: the report, and which events are kept. Invariant: an event is kept only if all of its
features are whole.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ..format.basin import BASIN_GROUP
from .writer import HDF5Writer

__all__ = ["RecoveryReport", "copy_basin_groups", "note_rows", "whole_rows"]

AnyArray = npt.NDArray[Any]


@dataclass(slots=True)
class RecoveryReport:
    """What was rescued, and what not.

    Attributes
    ----------
    path_in, path_out
        The files.
    way
        "journal", "scan", or "undo": the file as it was before it was added to.
    n_events
        Events in the output.
    n_announced
        Events that the input says it has: durable ones (journal), or rows of the longest feature.
    damaged
        What could not be read, in words.
    notes
        What else happened.
    torn_bytes
        Bytes at the journal's end that belong to no complete commit.
    """

    path_in: Path
    path_out: Path
    way: str
    n_events: int = 0
    n_announced: int = 0
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    torn_bytes: int = 0

    @property
    def exit_code(self) -> int:
        """0: all that was announced is there; 1: something is not."""
        return 1 if self.damaged or self.n_events < self.n_announced else 0

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        found = asdict(self)
        return {
            **found,
            "path_in": str(self.path_in),
            "path_out": str(self.path_out),
            "exit_code": self.exit_code,
        }


def whole_rows(good: AnyArray, *, cut_damaged: bool) -> AnyArray:
    """Events to keep: all good ones, or those before the first that is not."""
    if cut_damaged or good.all():
        return np.flatnonzero(good)
    return np.arange(int(np.argmin(good)))


def copy_basin_groups(h5: h5py.File, out: h5py.File) -> None:
    """Basins as they are: their mappings are features, of which the whole events were copied."""
    for name in ("basins", BASIN_GROUP):
        if isinstance(h5.get(name), h5py.Group):
            h5py.h5o.copy(h5.id, name.encode(), out.id, name.encode())


def note_rows(path: Path, rows: AnyArray) -> None:
    """Table of the events that are left."""
    with HDF5Writer(path, mode="r+") as writer:
        writer.store_table("dcwrite-recover", {"original_index": rows}, override=True)
