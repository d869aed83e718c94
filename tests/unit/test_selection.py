"""Numbers of events as they are written on the command line: like Python's slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import DataError
from dcwrite.tools.selection import checked_index, event_numbers

ENDS = st.none() | st.integers(-30, 30)


@given(
    st.integers(0, 25),
    st.lists(st.tuples(ENDS, ENDS, ENDS.filter(lambda step: step != 0)), min_size=1, max_size=4),
)
def test_slices_are_those_of_python(
    n_events: int, parts: list[tuple[int | None, int | None, int | None]]
) -> None:
    text = ",".join(":".join("" if end is None else str(end) for end in part) for part in parts)
    expected = [number for part in parts for number in list(range(n_events))[slice(*part)]]
    found = event_numbers(text, n_events)
    assert found.dtype == np.int64
    assert found.tolist() == expected
    if len(parts) == 1:
        assert event_numbers(slice(*parts[0]), n_events).tolist() == expected


@given(st.lists(st.integers(-9, 8), max_size=6))
def test_numbers(numbers: list[int]) -> None:
    expected = [list(range(9))[number] for number in numbers]
    assert event_numbers(numbers, 9).tolist() == expected
    assert event_numbers(np.array(numbers, dtype=np.int8), 9).tolist() == expected
    if numbers:
        assert event_numbers(" , ".join(map(str, numbers)), 9).tolist() == expected


def test_slices_and_numbers_in_one() -> None:
    assert event_numbers("5, 0:3,-1,::-4", 9).tolist() == [5, 0, 1, 2, 8, 8, 4, 0]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ("", "expected numbers and slices .*, got ''"),
        ("1,,2", "got ''"),
        ("1-3", "got '1-3'"),
        ("a", "got 'a'"),
        ("1.5", r"got '1\.5'"),
        ("0:1:2:3", "got '0:1:2:3'"),
        ("::0", "expected a step other than 0"),
        ("9", "expected events below 9 .*, got 9"),
        ("-10", "expected events from -9 .*, got -10"),
        ("99999999999999999999999999", "expected"),
        ("\u0661", "expected numbers and slices"),
        ("__import__('os')", "expected numbers and slices"),
        ("," * 20_000, "at most 10000 parts"),
        ([1.5], "expected integers"),
        ([[1]], "expected integers"),
        (["a"], "expected integers"),
        ([True, False], "expected integers"),
    ],
)
def test_what_is_refused(events: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        event_numbers(events, 9)


def test_an_index_says_how_often_and_in_which_order() -> None:
    assert checked_index([3, 3, 0], 4).tolist() == [3, 3, 0]
    assert checked_index(np.array([True, False, True, False]), 4).tolist() == [0, 2]
    assert checked_index([], 4).tolist() == []
    for bad in ([-1], [4], [True], [0.0], "[1]"):
        with pytest.raises((DataError, OSError)):
            checked_index(bad, 4)
