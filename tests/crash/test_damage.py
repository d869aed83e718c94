"""Damaged and hostile files end in our errors, in bounded time and memory."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcwrite.errors import BasinError
from dcwrite.format.basin import Basin, parse_basin

from .harness import Spec, Trial
from .hostile import BUILDERS

Trials = Callable[..., list[Trial]]


def test_bit_flips(trials: Trials) -> None:
    found = trials("bit_flips", Spec(n_frames=120), count=60, seed=1)
    assert all(trial.message != "exit code 0" for trial in found if "chunk" in trial.what)


@pytest.mark.parametrize("topic", sorted({name.partition(":")[0] for name in BUILDERS}))
def test_hostile_files(topic: str, trials: Trials) -> None:
    trials("hostile_files", Spec(n_frames=100), only=f"{topic}:")


def test_mutated_files(trials: Trials) -> None:
    trials("fuzz", Spec(n_frames=100), seconds=20, seed=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = [
    "type", "format", "name", "paths", "urls", "features", "mapping", "description",
    "identifier", "perishable",
]  # fmt: skip
LIKELY = st.sampled_from(
    ["file", "internal", "remote", "hdf5", "h5dataset", "http", "same", "basinmap0", ["x.rtdc"]]
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), JSON | LIKELY, max_size=10))
def test_basin_descriptions(data: dict[str, object]) -> None:
    text = json.dumps(data)
    try:
        basin = parse_basin(text.encode("utf-8", "replace").split(b"\n"))
    except BasinError:
        return
    assert isinstance(basin, Basin)
    assert parse_basin(basin.to_text().encode("utf-8", "replace").split(b"\n")).type == basin.type


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_basin_bytes(data: bytes) -> None:
    try:
        parse_basin(data.split(b"\n"))
    except BasinError:
        return
