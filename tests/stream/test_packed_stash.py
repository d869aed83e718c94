"""Packed events in a stash: nothing differs from the same events as dicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import EventError, EventStash
from dcwrite.stream.packing import Layout, PackedEvents, analyse
from dcwrite.stream.stash import Schema

from .streams import frame

#: One object per layout, as the reader of a queue has it.
LAYOUTS: dict[Any, Layout] = {}


def packed(events: Any) -> Any:
    """The events as they come out of an event queue."""
    found = analyse(events) if isinstance(events, dict) else None
    if found is None:
        return events
    spec, n_events = found
    layout = LAYOUTS.setdefault(spec, Layout(spec))
    values, n_taken = layout.take(events)
    assert n_taken == n_events
    block = memoryview(bytearray(layout.block_bytes(n_events)))
    layout.pack(values, n_events, block, 0)
    rest = {feat: events[feat] for feat in layout.rest}
    return PackedEvents(layout, block.toreadonly(), 0, n_events, rest)


def outcome(stash: EventStash, items: list[tuple[int, Any]]) -> tuple[list[str], Any, Any]:
    """Errors, the stash's events, and what could be saved."""
    errors = []
    for index, events in items:
        try:
            stash.add_events(index, events)
        except EventError as exc:
            errors.append(str(exc))
            if type(exc) is not EventError:  # the range is over
                break
    leading = stash.take_leading()
    return errors, stash.events, (leading, stash.is_complete(), stash.missing_frames())


def assert_equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_equal(ours, theirs)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def contours(n_events: int) -> list[Any]:
    return [np.full((3 + ii, 2), ii) for ii in range(n_events)]


#: What one frame may bring instead of the usual: changes of `frame`
KINDS: dict[str, Any] = {
    "usual": lambda n: {},
    "integers": lambda n: {"area_um": np.arange(n)},
    "float32": lambda n: {"area_um": np.arange(n, dtype=np.float32)},
    "fractions": lambda n: {"area_um": np.arange(n) + 0.3},
    "other-shape": lambda n: {"image": np.zeros((n, 5, 4), np.uint8)},
    "other-image-dtype": lambda n: {"image": np.ones((n, 3, 4), np.uint16)},
    "mask-0-255": lambda n: {"mask": np.full((n, 3, 4), 255, np.uint8)},
    "mask-labels": lambda n: {"mask": np.full((n, 3, 4), 7, np.uint8)},
    "missing": lambda n: {"area_um": None},
    "more": lambda n: {"tilt": np.zeros(n)},
    "fewer-events": lambda n: frame(0, n - 1),
    "bad-name": lambda n: {"..": np.zeros(n)},
    "list": lambda n: {"deform": list(range(n))},
    "text": lambda n: {"deform": ["a"] * n},
}


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, dict[str, Any], bool]]]:
    counts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=7))
    extra = draw(st.sampled_from(["nothing", "contour", "trace", "bad-contour"]))
    order = draw(st.permutations(range(len(counts))))
    kinds = st.one_of(st.just("usual"), st.sampled_from(sorted(KINDS)))
    items = []
    for index in [*order, *draw(st.lists(st.integers(-1, len(counts)), max_size=2))]:
        n_events = counts[index] if 0 <= index < len(counts) else 1
        changes = KINDS[draw(kinds)](n_events) if n_events else {}
        events = frame(index, n_events, **changes)
        if extra == "contour" or (extra == "bad-contour" and index):
            events["contour"] = contours(n_events)
        elif extra == "bad-contour":
            events["contour"] = [np.zeros(3)] * n_events
        elif extra == "trace":
            events["trace"] = {"fl1_raw": np.full((n_events, 5), index, np.int16)}
        items.append((index, events, draw(st.booleans())))
    return counts, items


class FeatureByFeature(EventStash):
    """A stash that looks at each feature of each frame by itself."""

    def _add_alike(self, *_: Any) -> bool:
        return False


@given(stream=streams(), how=st.sampled_from(["packed", "mixed", "plain"]))
def test_packed_or_not_is_the_same(stream: Any, how: str) -> None:
    """All, some or none packed: the same arrays, errors and leading frames, in two ranges."""
    counts, items = stream
    plain_schema, packed_schema = Schema(), Schema()
    for offset in (0, len(counts)):
        plain = [(index + offset, events) for index, events, _ in items]
        some = [
            (
                index + offset,
                events if how == "plain" or (how == "mixed" and keep) else packed(events),
            )
            for index, events, keep in items
        ]
        expected = outcome(FeatureByFeature(offset, counts, schema=plain_schema), plain)
        found = outcome(EventStash(offset, counts, schema=packed_schema), some)
        assert_equal(found, expected)


@pytest.mark.parametrize("form", [packed, dict], ids=["packed", "plain"])
def test_the_fast_path_is_taken(form: Any) -> None:
    stash = EventStash(0, [2, 0, 1])
    stash.add_events(2, form(frame(2)))
    assert not stash._events
    assert stash._packed is not None
    stash.add_events(0, form(frame(0, 2)))
    assert stash.is_complete()
    assert not stash._events
    for feat, data in frame(2).items():
        expected = np.concatenate([frame(0, 2)[feat], data])
        np.testing.assert_array_equal(stash.events[feat], expected)
        # scalars do not keep the rows of all features in memory
        assert stash.events[feat].ndim > 1 or stash.events[feat].flags.owndata
        assert stash.events[feat].flags.writeable


def test_a_look_in_between() -> None:
    stash = EventStash(0, [2, 1])
    stash.add_events(1, frame(1))
    assert stash.events["deform"].tolist() == [0, 0, 10 / 8]
    stash.add_events(0, frame(0, 2))
    assert stash.events["deform"].tolist() == [0, 1 / 8, 10 / 8]


def test_require_feature_in_between() -> None:
    stash = EventStash(0, [2, 1])
    stash.add_events(1, packed(frame(1)))
    assert stash.require_feature("deform", 0.0).tolist() == [0, 0, 10 / 8]
    stash.add_events(0, packed(frame(0, 2)))
    assert stash.events["deform"].tolist() == [0, 1 / 8, 10 / 8]


@pytest.mark.parametrize("value", [0.5, 300])
def test_a_later_range_keeps_the_dtype(value: float) -> None:
    schema = Schema()
    first = EventStash(0, [1], schema=schema)
    first.add_events(0, packed({"bright_avg": np.ones(1, np.uint8)}))
    later = EventStash(1, [1, 1], schema=schema)
    later.add_events(1, packed({"bright_avg": np.full(1, 7.0)}))
    with pytest.raises(EventError, match=r"frame 2.*uint8"):
        later.add_events(2, packed({"bright_avg": np.full(1, value)}))
    assert later.events["bright_avg"].dtype == np.uint8
