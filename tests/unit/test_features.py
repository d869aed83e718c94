"""Features: a value changes its dtype only where it stays the same value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dcwrite import DataError, EventError
from dcwrite.format.features import (
    as_item_arrays,
    as_mapping,
    cast_lossless,
    check_feature_name,
    flatten_group_features,
    is_basinmap,
    mask_to_stored,
    require_item_shape,
    to_stored,
)

INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
FLOATS = ["f2", "f4", "f8"]

#: values, their dtype, dtype to hold them, whether it can
CASTS: list[tuple[list[Any], str, str, bool]] = [
    ([0, 255], "i8", "u1", True),
    ([256], "i8", "u1", False),
    ([-1], "i1", "u8", False),
    ([2**63], "u8", "i8", False),
    ([2**63 - 1], "u8", "i8", True),
    ([2**64 - 1], "u8", "i1", False),
    ([-(2**63)], "i8", "i1", False),
    ([True, False], "?", "u1", True),
    ([True, False], "?", "f8", True),
    ([True, False], "?", "u8", True),
    ([0, 1], "u1", "?", True),
    ([2], "u1", "?", False),
    ([0.0, 1.0], "f8", "?", True),
    ([0.5], "f8", "?", False),
    ([2.9], "f8", "i8", False),
    ([-0.0, 3.0], "f8", "i8", True),
    ([300.0], "f8", "u1", False),
    ([-7.0], "f8", "u1", False),
    ([np.nan], "f8", "i8", False),
    ([np.inf], "f8", "i8", False),
    ([-np.inf], "f8", "i8", False),
    ([-np.inf], "f2", "i8", False),
    ([-np.inf], "f2", "i4", False),
    ([np.inf], "f2", "u8", False),
    ([2.0**63], "f8", "i8", False),
    ([-(2.0**63)], "f8", "i8", True),
    ([2.0**64], "f8", "u8", False),
    ([2.0**31], "f4", "i4", False),
    ([2**53], "i8", "f8", True),
    ([2**53 + 1], "i8", "f8", False),
    ([-(2**53) - 1], "i8", "f8", False),
    ([2**53 + 1], "u8", "f8", False),
    ([2**24 + 1], "i4", "f4", False),
    ([2**11 + 1], "i2", "f2", False),
    ([0.1], "f8", "f4", False),
    ([0.5, np.nan, -np.inf], "f8", "f4", True),
    ([1e300], "f8", "f4", False),
    ([0.1], "f4", "f8", True),
    ([1], "i8", "c16", False),
    ([1j], "c16", "f8", False),
    (["a"], "U1", "f8", False),
    ([], "f8", "u1", True),
    ([], "i8", "u1", True),
]


@pytest.mark.parametrize(("values", "source", "target", "fits"), CASTS)
def test_fault11_cast(values: list[Any], source: str, target: str, fits: bool) -> None:
    data = np.array(values, dtype=source)
    if not fits:
        with pytest.raises(EventError, match=rf"'deform', frame 3: .*{np.dtype(target)}"):
            cast_lossless(data, np.dtype(target), "deform", ", frame 3")
        return
    cast = cast_lossless(data, np.dtype(target), "deform")
    assert cast.dtype == target
    np.testing.assert_array_equal(cast, data)


@given(
    data=st.sampled_from(INTEGERS + FLOATS + ["?"]).flatmap(lambda kind: hnp.arrays(kind, (3,))),
    target=st.sampled_from(INTEGERS + FLOATS + ["?"]),
)
def test_fault11_what_is_cast_is_equal_as_python_numbers(data: Any, target: str) -> None:
    try:
        cast = cast_lossless(data, np.dtype(target), "deform")
    except EventError:
        return
    for before, after in zip(data.tolist(), cast.tolist(), strict=True):
        assert before == after or (math.isnan(before) and math.isnan(after))


def test_cast_names_the_first_value_that_does_not_fit() -> None:
    data = np.array([[1.0, 2.0], [3.0, 4.5], [5.5, 6.0]])
    with pytest.raises(EventError, match=r"4\.5.* at \(1, 1\)"):
        cast_lossless(data, np.dtype(int), "image")


def test_cast_to_the_same_dtype_copies_nothing() -> None:
    data = np.arange(3)
    assert cast_lossless(data, data.dtype, "deform") is data


@pytest.mark.parametrize(
    "values",
    [[True, False], [0, 1], [0, 255], [255, 255], [1, 1], [0, 0]],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i8", "u8"])
def test_fault11_masks(values: list[int], dtype: str) -> None:
    data = np.array(values, dtype=dtype).reshape(2, 1, 1)
    before = data.copy()
    stored = mask_to_stored(data)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, (before != 0) * 255)
    np.testing.assert_array_equal(data, before)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 2], "u1"), ([0, 1, 255], "u1"), ([254, 255], "u1"), ([-1, 0], "i1"), ([0, 256], "i4"),
        ([-1, 255], "i4"), ([0, 255, 257], "i4"), ([0.0, 1.0], "f4"), ([255, 256 + 255], "u2"),
        ([0, 255, 511], "u2"),
    ],
)  # fmt: skip
def test_fault11_what_is_no_mask(values: list[float], dtype: str) -> None:
    with pytest.raises(EventError, match=r"'mask'.*0/255"):
        mask_to_stored(np.array(values, dtype=dtype))


def test_empty_masks() -> None:
    for dtype in ("?", "u1", "i8"):
        assert mask_to_stored(np.zeros((0, 3, 4), dtype)).dtype == np.uint8


MAPPINGS: dict[str, tuple[Any, str]] = {
    "negative": ([3, -1], "-1 at position 1"),
    "too-large": ([3, 10, 11], "11 at position 2"),
    "floats": ([1.0], "float64"),
    "bools": ([True], "bool"),
    "texts": (["1"], "<U1"),
    "square": ([[1]], "shape"),
    "number": (1, "shape"),
    "empty-square": (np.zeros((0, 2), int), "shape"),
}


@pytest.mark.parametrize(("mapping", "words"), MAPPINGS.values(), ids=MAPPINGS.keys())
def test_fault13_mapping_refused(mapping: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"my mapping: .*{words}"):
        as_mapping(mapping, 10, "my mapping")


@pytest.mark.parametrize("mapping", [[], [9, 0, 9], np.array([3], np.uint64), (1, 2)], ids=str)
def test_mapping_taken(mapping: Any) -> None:
    checked = as_mapping(mapping, 10)
    assert checked.dtype.kind in "iu"
    assert checked.tolist() == list(mapping)
    as_mapping([10**6])  # no upper bound given


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a/b",
        "contour/0",
        "trace/",
        "a//b",
        "a/b/c",
        ".",
        "..",
        "a/..",
        "a\0",
        5,
        None,
    ],
)
def test_feature_names_refused(name: Any) -> None:
    with pytest.raises(EventError, match="feature name"):
        check_feature_name(name)


@pytest.mark.parametrize("name", ["deform", "trace/fl1_raw", "ml_score_ab1", "userdef 1", "µ"])
def test_feature_names_taken(name: str) -> None:
    check_feature_name(name)


def test_flatten_group_features() -> None:
    assert flatten_group_features({"deform": 1, "trace": {"fl1_raw": 2}}) == {
        "deform": 1,
        "trace/fl1_raw": 2,
    }
    assert flatten_group_features({"trace/fl1_raw": 2, "trace": {}}) == {"trace/fl1_raw": 2}
    for events in ({"trace": [1]}, {"deform": {"a": 1}}):
        with pytest.raises(EventError, match=r"mapping|array"):
            flatten_group_features(events)


def test_masked_values_have_no_place_in_a_file() -> None:
    data = np.ma.masked_greater(np.arange(4.0), 2)
    with pytest.raises(EventError, match="got 1 of 4 masked"):
        to_stored("deform", data)
    assert to_stored("deform", data[:3]).tolist() == [0, 1, 2]


def test_to_stored() -> None:
    assert to_stored("deform", [1, 2]).tolist() == [1, 2]
    assert to_stored("mask", [[[True]]]).tolist() == [[[255]]]
    for data in (5, "a", [None], [[1], [1, 2]], [1j], [np.datetime64("2020")]):
        with pytest.raises(EventError, match="'deform'"):
            to_stored("deform", data)


def test_as_item_arrays() -> None:
    items = as_item_arrays("contour", (np.zeros((ii, 2)) for ii in (3, 0)))
    assert [item.shape for item in items] == [(3, 2), (0, 2)]
    for data in ([np.zeros(3)], [np.zeros((3, 3))], [[["a", "b"]]], 5, [[[1], [1, 2]]]):
        with pytest.raises(EventError, match="contour"):
            as_item_arrays("contour", data)


def test_fault12_shapes_are_never_broadcast() -> None:
    require_item_shape("image", (4, 4), (4, 4))
    for got in ((1, 4), (4, 1), (4,), ()):
        with pytest.raises(EventError, match=r"'image' in x: .*\(4, 4\)"):
            require_item_shape("image", got, (4, 4), " in x")


def test_basin_mappings() -> None:
    assert is_basinmap("basinmap3")
    assert not is_basinmap("deform")
