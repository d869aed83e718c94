"""EventStash: the order in which frames arrive changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import EventError, EventStash
from dcwrite.stream.stash import Schema

DTYPES = ["u1", "i2", "i8", "f4", "f8"]


def events_of(frame: int, n: int, dtype: Any = float) -> dict[str, Any]:
    value = frame * 4 + np.arange(n)
    return {
        "deform": value.astype(dtype),
        "image": np.repeat(value, 6).reshape(n, 2, 3).astype(np.uint8),
        "mask": np.repeat(value % 2 == 0, 6).reshape(n, 2, 3),
        "contour": [np.full((ii % 3 + 1, 2), ii) for ii in value],
        "trace": {"fl1_raw": np.repeat(value, 5).reshape(n, 5)},
    }


def test_attributes() -> None:
    stash = EventStash(index_offset=10, feat_nevents=[1, 0, 2])
    assert (stash.size, stash.num_frames, stash.index_offset) == (3, 3, 10)
    assert list(stash.feat_nevents) == [1, 0, 2]
    assert stash.nev_idx.tolist() == [1, 1, 3]
    assert stash.indices_for_data.tolist() == [10, 12, 12]
    assert stash.indices_for_data.dtype == np.uint32
    assert stash.events == {}
    assert not stash.is_complete()
    assert stash.missing_frames() == [10, 12]


@given(st.data())
def test_any_order_gives_the_same_arrays(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 3), max_size=8))
    offset = data.draw(st.integers(0, 1000))
    kinds = data.draw(
        st.lists(st.sampled_from(DTYPES), min_size=len(counts), max_size=len(counts))
    )
    order = data.draw(st.permutations(range(len(counts))))
    frames = [
        events_of(ii, n, kind) for ii, (n, kind) in enumerate(zip(counts, kinds, strict=True))
    ]

    def filled(indices: Any) -> EventStash:
        stash = EventStash(offset, counts)
        for index in indices:
            if counts[index] or index % 2:  # frames without events may be left out
                stash.add_events(offset + index, frames[index])
        assert stash.is_complete()
        assert stash.missing_frames() == []
        return stash

    first, second = filled(order), filled(range(len(counts)))
    assert first.events.keys() == second.events.keys()
    for feat, array in first.events.items():
        if feat == "contour":
            for one, other in zip(array, second.events[feat], strict=True):
                np.testing.assert_array_equal(one, other)
        else:
            assert array.dtype == second.events[feat].dtype
            np.testing.assert_array_equal(array, second.events[feat])
    if sum(counts):
        value = np.concatenate([np.arange(n) + 4 * ii for ii, n in enumerate(counts)])
        np.testing.assert_array_equal(first.events["deform"], value)
        np.testing.assert_array_equal(first.events["image"][:, 1, 2], value)
        kind = next(kind for kind, n in zip(kinds, counts, strict=True) if n)
        assert first.events["deform"].dtype == kind


@given(
    values=st.lists(
        st.sampled_from([(0.0, "u1"), (2.9, "f8"), (300, "i8"), (-7, "i4"), (1, "f4")]),
        min_size=1,
        max_size=6,
    ),
    data=st.data(),
)
def test_fault11_dtype_resolution_does_not_depend_on_the_order(
    values: list[tuple[float, str]], data: st.DataObject
) -> None:
    outcomes = []
    for order in (range(len(values)), data.draw(st.permutations(range(len(values))))):
        stash = EventStash(0, [1] * len(values))
        error = None
        try:
            for index in order:
                value, kind = values[index]
                stash.add_events(index, {"a": np.array([value], kind)})
        except EventError as exc:
            error = str(exc)
        n_frames, events = stash.take_leading()
        # all frames before the one at fault are kept, as they came
        assert events["a"].tolist() == [value for value, _ in values[:n_frames]]
        assert n_frames == len(values) if error is None else f"frame {n_frames}:" in error
        outcomes.append((n_frames, events["a"].dtype))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1] == values[0][1]


def test_fault11_masks_of_all_kinds() -> None:
    truth = np.array([[[True, False]]])
    stash = EventStash(0, [1, 1, 1])
    for frame, mask in enumerate([truth, truth.astype(np.uint8), truth * np.uint8(255)]):
        stash.add_events(frame, {"mask": mask})
    assert stash.events["mask"].tolist() == [[[255, 0]]] * 3


def test_fault11_later_ranges_keep_the_dtype_of_the_first() -> None:
    schema = Schema()
    EventStash(0, [1], schema=schema).add_events(0, {"a": np.array([1], "u1")})
    stash = EventStash(1, [1, 1], schema=schema)
    stash.add_events(2, {"a": np.array([5.0])})
    with pytest.raises(EventError, match=r"'a', frame 1: .*uint8.*300"):
        stash.add_events(1, {"a": np.array([300])})
    stash.add_events(1, {"a": np.array([30])})
    assert stash.events["a"].dtype == np.uint8
    assert stash.events["a"].tolist() == [30, 5]


REFUSED: dict[str, tuple[int, Any, tuple[str, ...]]] = {
    "fault10-below": (9, {"a": [1.0]}, ("frame 9", "10 to 12")),
    "fault10-negative": (-1, {"a": [1.0]}, ("frame -1", "10 to 12")),
    "fault10-above": (13, {"a": [1.0]}, ("frame 13", "10 to 12")),
    "fault10-repeated": (10, {"a": [1.0], "b": [2]}, ("frame 10", "once")),
    "fault09-missing": (12, {"a": [1.0, 2.0]}, ("frame 12", "frame 10", "missing", "'b'")),
    "fault09-extra": (
        12, {"a": [1.0, 2.0], "b": [1, 2], "c": [1, 2]}, ("frame 12", "unexpected", "'c'"),
    ),
    "fault09-fewer": (12, {"a": [1.0], "b": [1]}, ("frame 12", "'a'", "2 events", "got 1")),
    "fault09-more": (12, {"a": [1.0] * 3, "b": [1] * 3}, ("frame 12", "2 events", "got 3")),
    "fault09-none": (12, None, ("frame 12", "2 events", "got none")),
    "fault09-events-where-none-are": (11, {"a": [1.0]}, ("frame 11", "0 events", "got 1")),
    "fault12-broadcast": (12, {"a": [1.0, 2.0], "b": [[1], [2]]}, ("frame 12", "'b'", "(1,)")),
    "no-dict": (12, [1], ("frame 12", "dict", "list")),
    "no-array": (12, {"a": 5.0, "b": [1, 2]}, ("frame 12", "'a'", "first axis")),
    "ragged": (12, {"a": [[1], [1, 2]], "b": [1, 2]}, ("frame 12", "'a'", "shapes")),
    "text": (12, {"a": ["a", "b"], "b": [1, 2]}, ("frame 12", "'a'", "<U1")),
    "contour": (12, {"contour": [[1, 2]]}, ("frame 12", "'contour'", "(points, 2)")),
    "contour-number": (12, {"contour": 5}, ("frame 12", "'contour'", "list")),
    "trace": (12, {"trace": [1, 2]}, ("frame 12", "'trace'", "mapping")),
    "mask": (12, {"mask": np.array([3, 4])}, ("frame 12", "'mask'", "0/255")),
}  # fmt: skip


@pytest.mark.parametrize(("index", "events", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_and_nothing_of_it_kept(index: int, events: Any, words: tuple[str, ...]) -> None:
    stash = EventStash(10, [1, 0, 2])
    stash.add_events(10, {"a": [7.0], "b": [1]})
    with pytest.raises(EventError) as caught:
        stash.add_events(index, events)
    assert all(word in str(caught.value) for word in words), caught.value
    assert {feat: array.tolist() for feat, array in stash.events.items()} == {
        "a": [7, 0, 0],
        "b": [1, 0, 0],
    }
    assert stash.missing_frames() == [12]
    n_frames, leading = stash.take_leading()
    assert (n_frames, leading["a"].tolist()) == (2, [7])
    stash.add_events(12, {"a": [8.0, 9.0], "b": [2, 3]})
    assert stash.events["a"].tolist() == [7, 8, 9]


@pytest.mark.parametrize("name", ["", "a/b/c", 5, ".."])
def test_names_that_cannot_be_stored(name: Any) -> None:
    with pytest.raises(EventError, match="feature name"):
        EventStash(0, [1]).add_events(0, {name: [1.0]})


@pytest.mark.parametrize(
    ("counts", "words"),
    [([1, -1], "frame 4.*-1"), ([1.5], "float"), ([[1]], "shape"), (["a"], "dtype")],
)
def test_counts_that_cannot_be(counts: Any, words: str) -> None:
    with pytest.raises(EventError, match=words):
        EventStash(3, counts)


def test_require_feature() -> None:
    stash = EventStash(0, [2, 1])
    array = stash.require_feature("image", np.zeros((2, 3), np.uint8))
    assert (array.shape, array.dtype) == ((3, 2, 3), np.uint8)
    assert stash.require_feature("image", np.zeros((2, 3), np.uint8)) is array
    assert stash.events["image"] is array


def test_the_callers_arrays_are_not_changed() -> None:
    mask = np.array([[[1, 0]]], np.uint8)
    stash = EventStash(0, [1, 1])
    stash.add_events(1, {"mask": mask})
    stash.add_events(0, {"mask": mask != 0})
    assert mask.tolist() == [[[1, 0]]]
