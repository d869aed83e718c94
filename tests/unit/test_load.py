"""The level that fits the load: when it falls, when it rises, and when it must not."""

from __future__ import annotations

from dcwrite import Compression
from dcwrite.store.load import FULL, HIGH, LOW, WINDOW_S, LevelPolicy

LIVE = Compression.preset("live")


class Load:
    """A policy with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pressed = False
        self.policy = LevelPolicy(LIVE, lambda: self.now)
        self.policy.is_pressed = lambda: self.pressed

    def for_a_while(self, *backlogs: float) -> int | None:
        """The level after a window with these backlogs."""
        for backlog in backlogs:
            self.policy.choose(backlog, 5)
        self.now += 1.01 * WINDOW_S
        return self.policy.choose(backlogs[-1], 5)


def test_falls_step_by_step_and_rises_again() -> None:
    load = Load()
    assert load.policy.level == 5
    busy = (HIGH + FULL) / 2
    assert [load.for_a_while(busy) for _ in range(6)] == [4, 3, 2, 1, 1, 1]
    between = (LOW + HIGH) / 2
    assert load.for_a_while(between) == 1
    assert [load.for_a_while(0.5 * LOW) for _ in range(6)] == [2, 3, 4, 5, 5, 5]


def test_falls_at_once_when_nearly_nothing_more_can_wait() -> None:
    load = Load()
    assert load.policy.choose((FULL + 1) / 2, 5) == 1


def test_a_backlog_that_was_empty_once_is_none() -> None:
    load = Load()
    load.for_a_while((HIGH + FULL) / 2)
    assert load.for_a_while((HIGH + FULL) / 2, 0.0, (HIGH + FULL) / 2) == 5


def test_does_not_rise_while_more_waits_to_get_there() -> None:
    load = Load()
    load.policy.choose(1.0, 5)
    load.pressed = True
    assert [load.for_a_while(0.0) for _ in range(3)] == [1, 1, 1]
    load.pressed = False
    assert [load.for_a_while(0.0) for _ in range(5)] == [2, 3, 4, 5, 5]
    load.pressed = True  # it still falls
    assert load.for_a_while((HIGH + FULL) / 2) == 4


def test_counts_and_datasets_with_a_level_of_their_own() -> None:
    load = Load()
    assert load.policy.choose(1.0, None) is None  # not compressed
    load.policy.choose(0.0, 5)
    load.policy.choose(1.0, 5)
    assert load.policy.counts == {5: 1, 1: 1}
    fixed = LevelPolicy(Compression.preset("archive"))
    assert [fixed.choose(1.0, own) for own in (5, 3)] == [5, 3]
