"""A recording with everything that a file may hold, and what of it has to survive a tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - plain h5py needs the Zstandard filter
import numpy as np

from dcwrite import HDF5Writer

__all__ = ["assert_survived", "make_everything"]

N_EVENTS = 120


def make_everything(path: Path) -> Path:
    """Write a file with all kinds of features, basins, texts, links and foreign groups.

    Its basins refer to "origin.rtdc" in the same folder, which is written, too.
    """
    rng = np.random.default_rng(0)
    n = N_EVENTS
    with HDF5Writer(path.with_name("origin.rtdc"), mode="w") as writer:
        writer.store_feature_chunk("bright_avg", np.arange(n / 2))
    with HDF5Writer(path, mode="w") as writer:
        writer.store_basin("origin", ["origin.rtdc"], mapping=np.arange(n) // 2)
        writer.store_basin("web", urls=["https://example.org/x.rtdc"], features=["size_x"])
        writer.store_basin(
            "inner",
            internal_data={"image_bg": rng.integers(0, 9, (5, 20, 30)).astype("u1")},
            mapping=np.arange(n) % 5,
        )
        writer.store_log("notes", ["first", "zweite Zeile: µm"])
        writer.store_table("channels", {"time": np.arange(3.0), "value": np.arange(3)})
        writer.store_metadata({"setup:medium": "PBS", "experiment:date": "2024-01-02"})
    with h5py.File(path, "r+") as h5:
        events = h5["events"]
        events.attrs["a group's"] = 3
        deform = events.create_dataset("deform", data=np.arange(n) / 8, compression="gzip")
        deform.attrs.update({"min": 0.0, "a text": "µ", "none": h5py.Empty("f4")})
        events["area_um"] = np.arange(n, dtype=">f4")  # neither chunks nor filters
        events["frame"] = np.arange(n, dtype=np.uint64)
        events.create_dataset(
            "image", data=rng.integers(0, 250, (n, 20, 30)).astype("u1"), chunks=(1, 20, 30)
        )
        events["image"].attrs["CLASS"] = np.bytes_("IMAGE")
        events.create_dataset("mask", data=rng.random((n, 20, 30)) > 0.5, compression="lzf")
        trace = events.create_group("trace")
        trace.attrs["rate"] = 1e6
        trace.create_dataset("fl1_raw", data=rng.integers(-9, 9, (n, 70)).astype("i2"))
        trace.create_dataset("fl1_median", data=rng.random((n, 70)), shuffle=True, chunks=(7, 70))
        contour = events.create_group("contour")
        for number in range(n):
            contour[str(number)] = rng.integers(0, 99, (number % 7, 2))
        contour["3"].attrs["smooth"] = True
        events["alias"] = h5py.SoftLink("/events/deform")
        events["elsewhere"] = h5py.ExternalLink("origin.rtdc", "/events/bright_avg")
        events["word"] = [b"a", b"bc"]
        events["userdef_group/deeper/x"] = np.arange(4)
        chopped = h5.create_group("basin_events/qpi_pha")
        chopped.attrs["inverse_background_feature"] = "image_bg"
        chopped["0"] = rng.integers(0, 9, (40, 6, 7)).astype("u1")
        chopped["index"] = rng.integers(0, 9, (n, 5))
        h5["logs"].create_dataset("old", data=["of any length", "µ"], dtype=h5py.string_dtype())
        h5["logs"].create_dataset("nothing", data=np.empty(0, "S10"))
        h5["logs/notes"].attrs["by"] = "hand"
        kind = np.dtype([("name", h5py.string_dtype()), ("x", "f8")])
        h5["tables"].create_dataset("words", data=np.array([("µ", 1.0)], kind))
        h5["basins/broken"] = [b"{no json"]
        h5["calibration/curve"] = rng.random((50, 2))
        h5["calibration"].attrs["by"] = np.bytes_("a machine")
        h5["calibration/again"] = h5py.SoftLink("/calibration/curve")
        h5["single"] = 7
        h5.attrs["experiment:event count"] = n
        h5.attrs["flags"] = np.array([True, False])
        h5.attrs["words"] = np.array(["a", "µ"], dtype=h5py.string_dtype())
    return path


def assert_survived(path_in: Path, path_out: Path, *, new_logs: tuple[str, ...] = ()) -> None:
    """All that is in one file is in the other: values, dtypes, attributes, links.

    What may differ: filters, chunks, the type of texts, the numbers of masks, and the names of
    basins whose paths had to change.
    """
    with h5py.File(path_in) as a, h5py.File(path_out) as b:
        first, second = _objects(a), _objects(b)
        added = {name for name in second if name not in first}
        lost = {name for name in first if name not in second}
        logs = {"logs"} if new_logs and "logs" not in first else set()
        assert added == {f"logs/{name}" for name in new_logs} | logs | _basins(added)
        assert lost == _basins(lost)
        assert len(_basins(added)) == len(_basins(lost))
        for name in set(first) & set(second):
            _assert_same(name, first[name], second[name])
        _assert_same_attributes("/", a, b)


def _basins(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("basins/")}


def _objects(h5: h5py.File) -> dict[str, Any]:
    """Objects and links by path."""
    found: dict[str, Any] = {}

    def walk(group: h5py.Group, prefix: str) -> None:
        for name in group:
            link = group.get(name, getlink=True)
            item = group[name] if isinstance(link, h5py.HardLink) else link
            found[prefix + name] = item
            if isinstance(item, h5py.Group):
                walk(item, f"{prefix}{name}/")

    walk(h5, "")
    return found


def _assert_same(name: str, a: Any, b: Any) -> None:
    assert type(a) is type(b), name
    if isinstance(a, (h5py.SoftLink, h5py.ExternalLink)):
        assert a.path == b.path, name
        return
    _assert_same_attributes(name, a, b)
    if not isinstance(a, h5py.Dataset):
        return
    first, second = a[()], b[()]
    if name.startswith(("logs/", "basins/")):
        first, second = _lines(first), _lines(second)
        assert first == second, name
        return
    if name == "events/mask" and first.dtype == np.bool_:
        first = first * np.uint8(255)
    assert a.shape == b.shape, name
    if a.dtype.hasobject:
        assert a.dtype == b.dtype, name
        assert first.tolist() == second.tolist(), name
        return
    assert np.asarray(first).dtype == np.asarray(second).dtype, name
    np.testing.assert_array_equal(first, second, err_msg=name)


def _lines(value: Any) -> list[str]:
    lines = [line if isinstance(line, bytes) else line.encode() for line in np.ravel(value)]
    return [line.decode("utf-8", "replace") for line in lines]


def _assert_same_attributes(name: str, a: Any, b: Any) -> None:
    first, second = _attributes(a), _attributes(b)
    if name.startswith(("logs/", "tables/")):
        second.pop("software", None)
        first.pop("software", None)
    assert first == second, name


def _attributes(item: Any) -> dict[str, str]:
    return {
        key: f"{item.attrs.get_id(key).dtype} {json.dumps(value, default=_shown)}"
        for key, value in item.attrs.items()
    }


def _shown(value: Any) -> str:
    return repr(value.tolist()) if hasattr(value, "tolist") else repr(value)
