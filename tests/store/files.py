"""What the tests of the store share: a small recording, and plain h5py to look at files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - plain h5py needs the Zstandard filter
import numpy as np
import numpy.typing as npt

from dcwrite import HDF5Writer

__all__ = [
    "assert_unknown",
    "basin_texts",
    "contents",
    "image",
    "make_recording",
    "opened",
    "put_basin",
    "put_unknown",
    "tree",
]

AnyArray = npt.NDArray[Any]


def image(n_events: int, start: int = 0) -> AnyArray:
    """Small images that differ from event to event; shape (n, 4, 5), uint8."""
    number = np.arange(start, start + n_events)[:, None, None]
    return ((number * 7 + np.arange(20).reshape(4, 5)) % 251).astype(np.uint8)


def make_recording(path: Path, n_events: int = 25, **metadata: Any) -> Path:
    """Write a recording with every kind of feature."""
    number = np.arange(n_events)
    with HDF5Writer(path, mode="x", threads=1, event_count=True, scalar_attributes=True) as writer:
        writer.store_feature_chunk("deform", number / 8)
        writer.store_feature_chunk("area_um", np.where(number % 3, number, np.nan))
        writer.store_feature_chunk("frame", number.astype(np.uint64))
        writer.store_feature_chunk("image", image(n_events))
        writer.store_feature_chunk("mask", image(n_events) % 2 == 0)
        writer.store_feature_chunk(
            "trace", {"fl1_raw": np.outer(number, np.arange(6)).astype(np.int16)}
        )
        writer.store_feature_chunk(
            "contour", [np.full((ii % 4 + 1, 2), ii, np.int32) for ii in range(n_events)]
        )
        writer.store_log("notes", ["first line", "zweite Zeile: µm"])
        writer.store_table("channels", {"time": np.arange(3.0), "value": np.arange(3)})
        writer.store_metadata(
            {
                "experiment:date": "2024-01-02",
                "experiment:time": "03:04:05",
                "setup:identifier": "a machine",
                **{key.replace("__", ":"): value for key, value in metadata.items()},
            }
        )
    return path


@contextmanager
def opened(source: Path, target: Path) -> Iterator[tuple[h5py.File, h5py.File]]:
    """Open one file to copy from and one to copy to."""
    with h5py.File(source, "r") as h5_src, h5py.File(target, "a") as h5_dst:
        yield h5_src, h5_dst


def contents(path: Path) -> dict[str, AnyArray]:
    """All datasets of a file."""
    found: dict[str, AnyArray] = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path, "r") as h5:
        h5.visititems(add)
    return found


def tree(path: Path) -> list[str]:
    """Names of all objects in a file."""
    names: list[str] = []
    with h5py.File(path, "r") as h5:
        h5.visit(names.append)
    return sorted(names)


def basin_texts(path: Path) -> dict[str, dict[str, Any]]:
    """Descriptions of all basins by name; the key has to be the md5 sum that it should be."""
    found = {}
    with h5py.File(path, "r") as h5:
        for key, dset in h5.get("basins", {}).items():
            text = "\n".join(line.decode() for line in dset[:])
            data = json.loads(text)
            assert _key(text, dclab="perishable" in data) == key
            found[data["name"]] = data
    return found


def _key(text: str, *, dclab: bool) -> str:
    """Name of a description's dataset: dclab leaves out the line ends, dcnum does not."""
    return hashlib.md5(text.replace("\n", "" if dclab else "\n").encode()).hexdigest()


def put_basin(h5: h5py.File, data: dict[str, Any]) -> str:
    """Store a description as dclab does, with plain h5py."""
    text = json.dumps(data, indent=2, sort_keys=True)
    key = _key(text, dclab="perishable" in data)
    h5.create_dataset(f"basins/{key}", data=np.array(text.encode().split(b"\n")))
    return key


def put_unknown(path: Path) -> None:
    """Add to a recording what none has: groups, datasets, links in the root."""
    with h5py.File(path, "a") as h5:
        curve = h5.create_dataset("calibration/deep/curve", data=np.arange(300.0).reshape(100, 3),
                                  chunks=(10, 3), compression="gzip")  # fmt: skip
        curve.attrs["unit"] = "µm"
        h5["calibration"].attrs["by"] = np.bytes_("a machine")
        h5["calibration/again"] = h5py.SoftLink("/calibration/deep/curve")
        h5["alias"] = h5py.SoftLink("/events/deform")
        h5["single"] = 7
        h5.create_group("empty")


def assert_unknown(path: Path) -> None:
    """A file has all that `put_unknown` adds."""
    with h5py.File(path) as h5:
        assert {"alias", "calibration", "empty", "single"} <= set(h5)
        np.testing.assert_array_equal(
            h5["calibration/deep/curve"][:], np.arange(300.0).reshape(100, 3)
        )
        assert h5["calibration/deep/curve"].chunks == (10, 3)
        assert h5["calibration/deep/curve"].attrs["unit"] == "µm"
        assert h5["calibration"].attrs["by"] == b"a machine"
        assert h5["calibration"].get("again", getlink=True).path == "/calibration/deep/curve"
        assert h5.get("alias", getlink=True).path == "/events/deform"
        assert h5["single"][()] == 7
        assert len(h5["empty"]) == 0
