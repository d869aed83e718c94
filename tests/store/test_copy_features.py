"""copy_features: the rows that were asked for, in that order, with what belongs to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import (
    ClosedError,
    DataError,
    EventError,
    FeatureNotFoundError,
    HDF5Writer,
    UnsupportedFeatureError,
    UsageError,
    copy_basins,
    copy_features,
    copy_metadata,
)

from .files import contents, image, make_recording, opened, tree

FEATURES = ["deform", "area_um", "frame", "image", "mask", "trace", "contour"]

MAPPINGS: dict[str, Any] = {
    "sorted": [0, 3, 4, 24],
    "fault13-unsorted": [7, 3, 24, 0],
    "fault13-repeats": [5, 5, 2, 5, 24, 24],
    "all-reversed": np.arange(25)[::-1],
    "uint64": np.array([3, 1], np.uint64),
    "uint8": np.array([3, 1], np.uint8),
    "one": [11],
    "none": [],
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_recording(tmp_path / "in.rtdc")


@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS.keys())
def test_rows_in_the_order_of_the_mapping(mapping: Any, source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        copy_features(h5_src, h5_dst, FEATURES, mapping=mapping, threads=2)
    before, after = contents(source), contents(tmp_path / "out")
    rows = np.asarray(mapping, int)
    for feat in ("deform", "area_um", "frame", "image", "mask", "trace/fl1_raw"):
        np.testing.assert_array_equal(after[f"events/{feat}"], before[f"events/{feat}"][rows])
        assert after[f"events/{feat}"].dtype == before[f"events/{feat}"].dtype
    contours = [name for name in after if name.startswith("events/contour/")]
    assert len(contours) == len(rows)
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(
            after[f"events/contour/{number}"], before[f"events/contour/{row}"]
        )


@pytest.mark.parametrize("threads", [1, 3])
def test_many_chunks(threads: int, tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "in") as writer:
        writer.store_feature_chunk("image", image(3500))
        writer.store_feature_chunk("deform", np.arange(3500))
    rows = np.random.default_rng(1).integers(0, 3500, 4200)
    with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
        copy_features(h5_src, h5_dst, ["image", "deform"], mapping=rows, threads=threads)
    after = contents(tmp_path / "out")
    np.testing.assert_array_equal(after["events/image"], image(3500)[rows])
    np.testing.assert_array_equal(after["events/deform"], rows)


BAD_MAPPINGS: dict[str, tuple[Any, str]] = {
    "fault13-negative": ([0, -1], "-1 at position 1"),
    "fault13-too-large": ([0, 25], "25 at position 1"),
    "selection": (np.ones(25, bool), "flatnonzero"),
    "fractions": ([0.5], "integer"),
    "whole-floats": ([1.0], "integer"),
    "two-dimensional": ([[1, 2]], "one-dimensional"),
    "number": (3, "one-dimensional"),
}


@pytest.mark.parametrize(("mapping", "words"), BAD_MAPPINGS.values(), ids=BAD_MAPPINGS.keys())
@pytest.mark.parametrize("feat", ["deform", "trace", "contour"])
def test_bad_mapping(mapping: Any, words: str, feat: str, source: Path, tmp_path: Path) -> None:
    with (
        opened(source, tmp_path / "out") as (h5_src, h5_dst),
        pytest.raises(DataError, match=words) as caught,
    ):
        copy_features(h5_src, h5_dst, ["area_um", feat], mapping=mapping)
    assert "area_um" in str(caught.value)
    assert tree(tmp_path / "out") == ["events"]


def test_fault13_traces_of_different_lengths(source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "a") as h5:
        h5.create_dataset("events/trace/fl2_raw", data=np.zeros((20, 6)), chunks=True)
    with (
        opened(source, tmp_path / "out") as (h5_src, h5_dst),
        pytest.raises(DataError, match="below 20"),
    ):
        copy_features(h5_src, h5_dst, ["trace"], mapping=[22])
    assert tree(tmp_path / "out") == ["events"]


@pytest.mark.parametrize("mapping", [None, [4, 2, 0]], ids=["all", "some"])
def test_fault13_masks_of_bool_become_0_and_255(mapping: Any, tmp_path: Path) -> None:
    truth = image(6) > 100
    with h5py.File(tmp_path / "in", "w") as h5:
        h5.create_dataset("events/mask", data=truth, chunks=(2, 4, 5))
    for _ in range(2):  # the second time it is there already, and identical
        with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
            copy_features(h5_src, h5_dst, ["mask"], mapping=mapping)
    stored = contents(tmp_path / "out")["events/mask"]
    assert stored.dtype == np.uint8
    rows = np.arange(6) if mapping is None else mapping
    np.testing.assert_array_equal(stored, truth[rows] * np.uint8(255))


@pytest.mark.parametrize("mapping", [None, [4, 2, 0]], ids=["all", "some"])
def test_fault13_attributes_are_kept_and_summaries_are_right(
    mapping: Any, source: Path, tmp_path: Path
) -> None:
    with h5py.File(source, "a") as h5:
        h5["events/deform"].attrs["unit"] = "none"
        h5["events/image"].attrs["camera"] = np.bytes_(b"fast")
        h5["events/trace"].attrs["laser"] = 488
        h5["events/contour"].attrs["method"] = "border"
        h5["events/trace/fl1_raw"].attrs["samples"] = 6
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        copy_features(h5_src, h5_dst, FEATURES, mapping=mapping)
        events = h5_dst["events"]
        assert events["deform"].attrs["unit"] == "none"
        assert events["image"].attrs["camera"] == b"fast"
        assert events["image"].attrs["CLASS"] == b"IMAGE"
        assert events["trace"].attrs["laser"] == 488
        assert events["contour"].attrs["method"] == "border"
        assert events["trace/fl1_raw"].attrs["samples"] == 6
        for feat in ("deform", "area_um", "frame"):
            values = events[feat][:]
            for key, function in (("min", np.nanmin), ("max", np.nanmax), ("mean", np.nanmean)):
                assert events[feat].attrs[key] == pytest.approx(function(values))


@pytest.mark.parametrize("mapping", [None, [1, 0, 1, 0]], ids=["all", "some"])
def test_fault13_identical_features_with_nan(mapping: Any, source: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with opened(source, tmp_path / "out") as (h5_src, h5_dst):
            copy_features(h5_src, h5_dst, FEATURES, mapping=mapping)
    before = contents(tmp_path / "out")
    for feat, index in (("area_um", 1), ("contour/0", 0), ("trace/fl1_raw", (1, 1))):
        with h5py.File(tmp_path / "out", "a") as h5:
            h5["events"][feat][index] = 99
        with (
            opened(source, tmp_path / "out") as (h5_src, h5_dst),
            pytest.raises(EventError, match=f"contains the feature {feat.split('/', 1)[0]}"),
        ):
            copy_features(h5_src, h5_dst, FEATURES, mapping=mapping)
        with h5py.File(tmp_path / "out", "a") as h5:
            h5["events"][feat][...] = before[f"events/{feat}"]


def test_fault13_other_length_is_not_identical(source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        copy_features(h5_src, h5_dst, ["deform"], mapping=[0, 1])
        with pytest.raises(EventError, match="deform"):
            copy_features(h5_src, h5_dst, ["deform"])


@pytest.mark.parametrize("mapping", [None, []], ids=["all", "some"])
def test_fault13_empty_source(mapping: Any, tmp_path: Path) -> None:
    make_recording(tmp_path / "in", 0)
    features = ["deform", "image", "mask", "trace", "contour"]
    for _ in range(2):
        with opened(tmp_path / "in", tmp_path / "out") as (h5_src, h5_dst):
            copy_features(h5_src, h5_dst, features, mapping=mapping)
    after = contents(tmp_path / "out")
    assert after["events/image"].shape == (0, 4, 5)
    assert after["events/deform"].shape == (0,)
    assert after["events/trace/fl1_raw"].shape == (0, 6)
    with h5py.File(tmp_path / "in", "r") as h5, h5py.File(tmp_path / "new", "w") as new:
        copy_features(h5, new, [])


def test_fault13_event_count_is_that_of_the_output(source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        h5_dst.attrs.update(h5_src.attrs)
        copy_features(h5_src, h5_dst, ["deform", "trace"], mapping=[3, 4])
        assert h5_dst.attrs["experiment:event count"] == 2
    with opened(source, tmp_path / "new") as (h5_src, h5_dst):
        copy_features(h5_src, h5_dst, ["deform"], mapping=[3, 4])
        assert "experiment:event count" not in h5_dst.attrs


def test_fault19_groups_without_mapping(source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        copy_features(h5_src, h5_dst, ["trace", "contour"])
    before, after = contents(source), contents(tmp_path / "out")
    assert len(after) == 26
    for name, data in after.items():
        np.testing.assert_array_equal(data, before[name])


def test_what_is_not_there(source: Path, tmp_path: Path) -> None:
    with h5py.File(source, "a") as h5:
        h5.create_group("events/odd")
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        with pytest.raises(FeatureNotFoundError, match="'tilt'"):
            copy_features(h5_src, h5_dst, ["deform", "tilt"])
        with pytest.raises(UnsupportedFeatureError, match="'odd'"):
            copy_features(h5_src, h5_dst, ["deform", "odd"])
        assert list(h5_dst["events"]) == []
    with (
        h5py.File(tmp_path / "no-events", "w") as h5,
        h5py.File(tmp_path / "new", "w") as new,
        pytest.raises(FeatureNotFoundError),
    ):
        copy_features(h5, new, ["deform"])


@pytest.mark.parametrize("copy", [copy_basins, copy_metadata, copy_features])
def test_files_that_are_not_open_for_it(copy: Any, source: Path, tmp_path: Path) -> None:
    arguments = {"features": ["deform"]} if copy is copy_features else {}
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        with pytest.raises(UsageError, match="mode 'r'"):
            copy(h5_dst, h5_src, **arguments)
        with pytest.raises(UsageError, match=r"h5py\.File"):
            copy(source, h5_dst, **arguments)
    for files in ((h5_src, h5_dst), (h5_dst, h5_src)):
        with pytest.raises(ClosedError):
            copy(*files, **arguments)


def test_a_copy_that_fails_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        with pytest.raises(DataError, match="nonsense"):
            copy_features(
                h5_src, h5_dst, ["trace"], mapping=[0], ds_kwds={"compression": "nonsense"}
            )
        assert list(h5_dst["events"]) == []


def test_fault18_filters_of_the_caller(source: Path, tmp_path: Path) -> None:
    kwds: dict[str, Any] = {"compression": "gzip"}
    with opened(source, tmp_path / "out") as (h5_src, h5_dst):
        copy_features(h5_src, h5_dst, ["image"], mapping=[0, 2], ds_kwds=kwds)
        assert h5_dst["events/image"].compression == "gzip"
    assert kwds == {"compression": "gzip"}


def test_virtual_and_contiguous_sources(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "raw", "w") as h5:
        h5["deform"] = np.arange(9.0)
    layout = h5py.VirtualLayout((9,), float)
    layout[:] = h5py.VirtualSource("raw", "deform", (9,))
    with h5py.File(tmp_path / "in", "w") as h5:
        h5.create_virtual_dataset("events/deform", layout)
        h5["events/image"] = image(9)
    for mapping in (None, [8, 0]):
        rows = np.arange(9) if mapping is None else mapping
        target = tmp_path / f"out{len(rows)}"
        with opened(tmp_path / "in", target) as (h5_src, h5_dst):
            copy_features(h5_src, h5_dst, ["deform", "image"], mapping=mapping)
            assert not h5_dst["events/deform"].is_virtual
        after = contents(target)
        np.testing.assert_array_equal(after["events/deform"], rows)
        np.testing.assert_array_equal(after["events/image"], image(9)[rows])
