"""HDF5Writer: data that do not fit are refused, and the file stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dcwrite import DataError, EventError, HDF5Writer

from .files import contents, image, tree

#: id -> first events, events that do not fit, words of the message
REFUSED: dict[str, tuple[str, Any, Any, tuple[str, ...]]] = {
    "fault01-shape": ("image", image(3), np.zeros((2, 5, 5), np.uint8), ("(4, 5)", "(5, 5)")),
    "fault11-2.9-into-int": ("a", np.arange(3), [2.0, 2.9], ("int64", "2.9", "(1,)")),
    "fault11-nan-into-int": ("a", np.arange(3), [np.nan], ("int64", "nan")),
    "fault11-300-into-uint8": ("a", np.arange(3, dtype=np.uint8), [300], ("uint8", "300")),
    "fault11-negative-into-uint8": ("a", np.arange(3, dtype=np.uint8), [-7], ("uint8", "-7")),
    "fault11-large-int-into-float": ("a", np.arange(3.0), [2**53 + 1], ("float64", "int64")),
    "fault11-float64-into-float32": (
        "a", np.arange(3, dtype=np.float32), [0.1], ("float32", "0.1")
    ),
    "fault11-labelled-mask": ("mask", image(3) > 9, image(2), ("0/255",)),
    "fault11-mask-of-floats": ("mask", image(3) > 9, image(2) / 255, ("float64",)),
    "fault12-broadcast": ("image", image(3), np.zeros((2, 1, 5), np.uint8), ("(1, 5)",)),
    "fault12-scalar-into-image": ("image", image(3), np.zeros(4, np.uint8), ("(4, 5)", "()")),
    "text": ("a", np.arange(3), ["b"], ("<U1",)),
    "objects": ("a", np.arange(3), [None], ("object",)),
    "complex": ("a", np.arange(3), [1j], ("complex128",)),
    "no-event-axis": ("a", np.arange(3), 5, ("first axis", "np.atleast_1d")),
    "ragged": ("a", np.arange(3), [[1], [1, 2]], ("different shapes",)),
    "traces-of-two-lengths": (
        "trace", {"fl1_raw": np.zeros((3, 7)), "fl2_raw": np.zeros((3, 7))},
        {"fl1_raw": np.zeros((2, 7)), "fl2_raw": np.zeros((3, 7))}, ("'trace/fl1_raw': 2",),
    ),
    "second-trace-does-not-fit": (
        "trace", {"fl1_raw": np.zeros((3, 7)), "fl2_raw": np.zeros((3, 7))},
        {"fl1_raw": np.zeros((2, 7)), "fl2_raw": np.zeros((2, 6))}, ("trace/fl2_raw", "(6,)"),
    ),
    "trace-without-names": (
        "trace", {"fl1_raw": np.zeros((3, 7))}, np.zeros((3, 7)), ("mapping", "ndarray")
    ),
    "names-for-no-trace": ("a", np.arange(3), {"b": np.arange(3)}, ("'a'", "dict")),
    "contour-shape": (
        "contour", [np.zeros((4, 2))] * 3, [np.zeros((4, 2)), np.zeros((4, 3))],
        ("event 1 of 2", "(points, 2)", "(4, 3)"),
    ),
    "contour-no-list": ("contour", [np.zeros((4, 2))] * 3, 5, ("contour", "int")),
}  # fmt: skip


@pytest.mark.parametrize("visible", [False, True], ids=["hidden", "visible"])
@pytest.mark.parametrize(("feat", "good", "bad", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(
    feat: str, good: Any, bad: Any, words: tuple[str, ...], visible: bool, tmp_path: Path
) -> None:
    with HDF5Writer(tmp_path / "a", threads=1) as writer:
        if visible:
            assert writer.h5.id.valid
        writer.store_feature_chunk(feat, good)
        with pytest.raises(EventError) as caught:
            writer.store_feature_chunk(feat, bad)
        assert all(word in str(caught.value) for word in (feat, *words)), caught.value
    before = contents(tmp_path / "a")
    with HDF5Writer(tmp_path / "b", threads=1) as writer:
        writer.store_feature_chunk(feat, good)
    after = contents(tmp_path / "b")
    assert before.keys() == after.keys()
    for name, data in after.items():
        np.testing.assert_array_equal(before[name], data)
    # the refusal is not the end: what fits goes on
    with HDF5Writer(tmp_path / "a", threads=1) as writer:
        writer.store_feature_chunk(feat, good)


@pytest.mark.parametrize(
    ("bad", "feat"),
    [
        (["b"], "a"), (5, "a"), (np.zeros((2, 3)), "trace"), ({"b": [1]}, "a"),
        ([np.zeros(3)], "contour"), ([1.0], ""), ([1.0], "a/b/c"), ([1.0], ".."), ([1.0], 5),
        ([1.0], "a/."), ([1.0], "a\0b"), (image(2), "mask"),
    ],
)  # fmt: skip
def test_refused_as_first_leaves_nothing(bad: Any, feat: Any, tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", threads=1) as writer, pytest.raises(EventError):
        writer.store_feature_chunk(feat, bad)
    assert tree(tmp_path / "a") == ["events"]


#: id -> dtype of the first events, values that fit into it
TAKEN: dict[str, tuple[Any, Any]] = {
    "int-into-float64": (np.float64, np.array([1, -2, 2**53])),
    "uint8-into-float32": (np.float32, np.array([0, 255], np.uint8)),
    "float32-into-float64": (np.float64, np.array([0.1, np.nan, np.inf], np.float32)),
    "whole-floats-into-int": (np.int64, np.array([3.0, -4.0])),
    "int64-into-uint8": (np.uint8, np.array([0, 255])),
    "bool-into-uint8": (np.uint8, np.array([True, False])),
    "uint64-into-int64": (np.int64, np.array([2**63 - 1], np.uint64)),
    "float64-into-float32": (np.float32, np.array([0.5, np.nan, -np.inf])),
    "list": (np.float64, [1, 2, 3]),
    "empty": (np.uint8, []),
}


@pytest.mark.parametrize(("dtype", "values"), TAKEN.values(), ids=TAKEN.keys())
def test_fault11_values_that_fit_are_taken(dtype: Any, values: Any, tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", threads=1) as writer:
        writer.store_feature_chunk("a", np.ones(2, dtype))
        writer.store_feature_chunk("a", values)
        found = writer.events["a"]
        assert found.dtype == dtype
        np.testing.assert_array_equal(found[2:], values)


def test_fault11_masks_of_all_kinds_become_0_and_255(tmp_path: Path) -> None:
    truth = image(2) > 90
    kinds = [
        truth,
        truth.astype(np.uint8),
        truth * np.uint8(255),
        truth.astype(np.int64) * 255,
        np.zeros_like(truth),
        np.full(truth.shape, 255, np.uint8),
        truth[:0],
    ]
    with HDF5Writer(tmp_path / "a", threads=1) as writer:
        for mask in kinds:
            writer.store_feature_chunk("mask", mask)
    stored = contents(tmp_path / "a")["events/mask"]
    assert stored.dtype == np.uint8
    expected = np.concatenate([mask != 0 for mask in kinds]) * np.uint8(255)
    np.testing.assert_array_equal(stored, expected)


def test_images_are_marked_as_such(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", threads=1) as writer:
        writer.store_feature_chunk("image", image(2))
        writer.store_feature_chunk("mask", image(2) > 9)
        writer.store_feature_chunk("deform", [1.0, 2.0])
        for feat in ("image", "mask"):
            attributes = writer.events[feat].attrs
            assert attributes["CLASS"] == b"IMAGE"
            assert attributes["IMAGE_VERSION"] == b"1.2"
            assert attributes["IMAGE_SUBCLASS"] == b"IMAGE_GRAYSCALE"
            kind = attributes.get_id("CLASS").get_type()
            assert isinstance(kind, h5py.h5t.TypeStringID)
            assert not kind.is_variable_str()
        assert not writer.events["deform"].attrs


def test_contours_and_traces(tmp_path: Path) -> None:
    contours = [np.full((ii % 3, 2), ii, np.int32) for ii in range(12)]
    traces = np.arange(12 * 5, dtype=np.int16).reshape(12, 5)
    with HDF5Writer(tmp_path / "a", threads=1, ds_kwds={"chunks": True}) as writer:
        for start in (0, 5):
            rows = np.s_[start : 5 if start == 0 else 12]
            writer.store_feature_chunk("contour", contours[rows])
            writer.store_feature_chunk("trace", {"fl1_raw": traces[rows]})
            writer.store_feature_chunk("trace/fl1_median", traces[rows] + 1)
    found = contents(tmp_path / "a")
    np.testing.assert_array_equal(found["events/trace/fl1_raw"], traces)
    np.testing.assert_array_equal(found["events/trace/fl1_median"], traces + 1)
    for number, contour in enumerate(contours):
        np.testing.assert_array_equal(found[f"events/contour/{number}"], contour)


def test_truncate_never_takes_what_was_there_before(tmp_path: Path) -> None:
    contour = [np.ones((3, 2))]
    with HDF5Writer(tmp_path / "a", threads=1) as writer:
        writer.store_feature_chunk("deform", np.arange(1005.0))
        writer.store_feature_chunk("contour", contour * 5)
    for keep, expected in ((7, (1005, 7)), (1008, (1008, 9)), ({}, (1008, 9))):
        with HDF5Writer(tmp_path / "a", threads=1) as writer:
            writer.store_feature_chunk("deform", np.arange(2000.0))
            writer.store_feature_chunk("contour", contour * 4)
            writer.truncate({"deform": keep, "contour": expected[1]} if keep else {})
        found = contents(tmp_path / "a")
        assert len(found["events/deform"]) == expected[0]
        assert len(found) - 1 == expected[1]
    np.testing.assert_array_equal(found["events/deform"][:1005], np.arange(1005))
    np.testing.assert_array_equal(found["events/deform"][1005:], np.arange(3))


def test_a_group_where_a_feature_should_be(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as h5:
        h5.create_group("events/deform")
    with HDF5Writer(tmp_path / "a") as writer, pytest.raises(DataError, match="group"):
        writer.store_feature_chunk("deform", [1.0])
