"""Compact rows stand for an array: whatever is done with them gives what the array gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite.store.background import BackgroundBasin
from dcwrite.store.buffers import place_rows
from dcwrite.store.compact_rows import BitRows, CompactRows, RepeatedRows, as_array

SHAPES = [(3, 5), (4, 8), (7,), (2, 3, 4)]


def bit_rows(rng: np.random.Generator, n_rows: int, shape: tuple[int, ...]) -> tuple:
    array = rng.integers(0, 2, (n_rows, *shape)).astype(bool)
    bits = np.packbits(array.reshape(n_rows, math.prod(shape)), axis=1)
    return BitRows(bits, shape), array


def repeated_rows(
    rng: np.random.Generator, n_rows: int, shape: tuple[int, ...], dtype: str = "u1"
) -> tuple:
    values = list(rng.integers(0, 3, (4, *shape)).astype(dtype))
    values.append(values[0].copy())  # equal, and not the same
    index = (
        np.sort(rng.integers(0, 5, n_rows)) if rng.random() < 0.5 else rng.integers(0, 5, n_rows)
    )
    return RepeatedRows(values, index), np.stack(values)[index]


@given(
    seed=st.integers(0, 2**32 - 1),
    n_rows=st.integers(0, 30),
    shape=st.sampled_from(SHAPES),
    kind=st.sampled_from(["bits", "repeated"]),
    cut=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_they_are_the_array(
    seed: int, n_rows: int, shape: tuple[int, ...], kind: str, cut: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    rows, array = (bit_rows if kind == "bits" else repeated_rows)(rng, n_rows, shape)
    part = slice(*cut)
    for found, expected in ((rows, array), (rows[part], array[part])):
        assert len(found) == len(expected)
        assert (found.shape, found.ndim) == (expected.shape, expected.ndim)
        assert (found.dtype, found.nbytes) == (expected.dtype, expected.nbytes)
        assert as_array(found).dtype == expected.dtype
        np.testing.assert_array_equal(as_array(found), expected)
        np.testing.assert_array_equal(np.asarray(found, np.float64), expected.astype(np.float64))
        where = np.full(expected.shape, 77, expected.dtype)
        place_rows(where, found)
        np.testing.assert_array_equal(where, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_become_a_mask(shape: tuple[int, ...]) -> None:
    rows, array = bit_rows(np.random.default_rng(1), 6, shape)
    where = np.full(array.shape, 7, np.uint8)
    place_rows(where[1:4], rows[2:5])
    assert (where[0] == 7).all()
    assert (where[4:] == 7).all()
    np.testing.assert_array_equal(where[1:4], array[2:5] * np.uint8(255))


def test_masks_need_contiguous_memory() -> None:
    rows, _ = bit_rows(np.random.default_rng(1), 3, (4, 8))
    with pytest.raises(ValueError, match="contiguous"):
        rows.place(np.zeros((3, 4, 16), np.uint8)[:, :, ::2])


def test_one_value() -> None:
    values = [np.zeros(3), np.ones(3)]
    assert RepeatedRows(values, np.array([1, 1])).only_value() is values[1]
    assert RepeatedRows(values, np.array([0])).only_value() is values[0]
    assert RepeatedRows(values, np.array([0, 1])).only_value() is None
    assert RepeatedRows(values, np.array([], np.intp)).only_value() is None


def test_no_array_without_a_copy() -> None:
    rows, _ = bit_rows(np.random.default_rng(2), 2, (3,))
    assert isinstance(rows, CompactRows)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(rows, copy=False)


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 12), max_size=5),
    dtype=st.sampled_from(["u1", "f4"]),
)
def test_backgrounds_are_stored_once_in_either_form(
    seed: int, sizes: list[int], dtype: str
) -> None:
    rng = np.random.default_rng(seed)
    compact, plain = BackgroundBasin(), BackgroundBasin()
    for size in sizes:
        rows, array = repeated_rows(rng, size, (4, 6), dtype)
        found, expected = compact.split(rows), plain.split(array)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        assert compact.n_stored == plain.n_stored
