"""Pickled frames that are alike: what comes out is what unpickling gives."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcwrite.stream.alike import AlikeFrames
from dcwrite.stream.packing import PackedEvents


def _pickled(index: Any, events: Any) -> bytearray:
    return bytearray(ForkingPickler.dumps((index, events)))


def _frame(rng: np.random.Generator, n_events: int) -> dict[str, Any]:
    return {
        "deform": rng.random(n_events),
        "image": rng.integers(0, 255, (n_events, 8, 12), np.uint8),
        "area_um": rng.random(n_events).astype(np.float32).astype(np.float64),
        "mask": rng.random((n_events, 8, 12)) > 0.5,
        "pos": rng.integers(-9, 9, n_events).astype(np.int64),
        "trace": {name: rng.integers(0, 9, (n_events, 30), np.int16) for name in ("a", "b")},
    }


def _check(found: Any, index: int, events: dict[str, Any]) -> None:
    assert found[0] == index
    assert type(found[0]) is int
    flat = {**events, **{f"trace/{k}": v for k, v in events.get("trace", {}).items()}}
    flat.pop("trace", None)
    assert set(found[1]) == set(flat)
    for name, array in flat.items():
        assert found[1][name].dtype == array.dtype
        np.testing.assert_array_equal(found[1][name], array)


@given(
    seed=st.integers(0, 2**32),
    frames=st.lists(
        st.tuples(st.integers(0, 2**31 - 1) | st.integers(0, 300), st.integers(1, 4)), max_size=12
    ),
)
@settings(max_examples=60, deadline=None)
def test_the_same_as_unpickled(seed: int, frames: list[tuple[int, int]]) -> None:
    rng, alike = np.random.default_rng(seed), AlikeFrames()
    for index, n_events in frames:
        events = _frame(rng, n_events)
        message = _pickled(index, events)
        first, second = alike.load(message), alike.load(bytearray(message))
        if type(first[1]) is PackedEvents:  # one like it came before
            _check(first, index, events)
        else:
            assert first[0] == index
        assert type(second[1]) is PackedEvents
        _check(second, index, events)


def test_values_of_all_kinds() -> None:
    """Not-a-number with its payload, infinities, equal arrays, zeros."""
    alike = AlikeFrames()
    special = np.array([np.nan, -np.nan, np.inf, -0.0])
    for values in (np.arange(4.0), special, np.zeros(4), np.ones(4)):
        events = {"deform": values, "area_um": values.copy()}
        found = alike.load(_pickled(7, events))
    assert type(found[1]) is PackedEvents
    found = alike.load(_pickled(8, {"deform": special, "area_um": special.copy()}))
    assert found[1]["deform"].tobytes() == special.tobytes()


def _one_array_twice(rng: np.random.Generator) -> dict[str, Any]:
    values = rng.random(3)
    return {"deform": values, "area_um": values}


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: {"deform": rng.random(3), "contour": [np.arange(6).reshape(3, 2)] * 3},
        lambda rng: {"deform": rng.random(3), "image": np.asfortranarray(rng.random((3, 4, 5)))},
        lambda rng: {"deform": rng.random(3).tolist()},
        lambda rng: {"deform": rng.random(3), "flag": np.array([1, 0, 1], np.uint8)},
        lambda rng: {"deform": rng.random(3).astype(">f8")},
        lambda rng: {"deform": rng.random(3), "area_um": rng.random(2)},
        lambda rng: {"deform": np.ma.masked_array(rng.random(3), [0, 1, 0])},
        lambda rng: {1: rng.random(3)},
        lambda rng: None,
        lambda rng: {},
        lambda rng: 5,
        _one_array_twice,
    ],
)
def test_what_has_no_such_form_is_unpickled(make: Callable[[np.random.Generator], Any]) -> None:
    rng, alike = np.random.default_rng(2), AlikeFrames()
    for index in range(3):
        events = make(rng)
        message = _pickled(index, events)
        found = alike.load(message)
        assert type(found[1]) is not PackedEvents
        assert repr(found) == repr(ForkingPickler.loads(message))


@pytest.mark.parametrize("index", [-1, 2**31, 2**40, np.int64(3), "3", None, True])
def test_an_index_of_another_kind(index: Any) -> None:
    rng, alike = np.random.default_rng(2), AlikeFrames()
    for _ in range(2):
        found = alike.load(_pickled(index, _frame(rng, 2)))
        assert type(found[1]) is dict
        assert found[0] == index


def test_a_frame_of_the_same_size_that_is_another() -> None:
    """Other names of the same length, other dtypes of the same size."""
    rng, alike = np.random.default_rng(2), AlikeFrames()
    values = rng.random(5)
    frames: list[dict[str, Any]] = [
        {"deform": values},
        {"aspect": values},
        {"deform": values.view(np.int64)},
        {"deform": values.view(np.uint64)},
    ]
    for _ in range(2):
        for index, events in enumerate(frames):
            _check(alike.load(_pickled(index, events)), index, events)


def test_learning_comes_to_an_end() -> None:
    rng, alike = np.random.default_rng(2), AlikeFrames()
    for size in range(1, 40):
        alike.load(_pickled(0, {"flag": rng.integers(0, 2, size).astype(np.uint8)[:3]}))
    assert alike._n_failures <= 16
    for size in range(1, 300):
        alike.load(_pickled(0, {"deform": rng.random(size)}))
    assert alike._n_forms <= 256
