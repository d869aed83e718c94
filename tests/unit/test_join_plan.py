"""What a join decides before it writes: order, offsets, features, basins; without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcwrite.errors import MismatchError, UsageError
from dcwrite.format.basin import Basin
from dcwrite.tools.join_inputs import Column, JoinInput, LinkedBasin, Span, start_of
from dcwrite.tools.join_metadata import configuration_lines, joined_identifier, joined_metadata
from dcwrite.tools.join_plan import JoinPlan, plan_join

COLUMNS = {
    "deform": Column("own", (), np.dtype(np.float64), None, Path("x"), "/events/deform", 0),
    "image": Column("own", (4, 5), np.dtype(np.uint8), None, Path("x"), "/events/image", 0),
}


def column(
    name: str, dtype: Any = np.float64, shape: tuple[int, ...] = (), **changes: Any
) -> Column:
    options = {"way": "own", "path": Path("x"), "dataset": f"/events/{name}", "first_row": 0}
    return Column(item_shape=shape, dtype=np.dtype(dtype), **{**options, **changes})


def made(name: str, time: str = "10:00:00", **changes: Any) -> JoinInput:
    metadata = {
        "experiment:date": "2024-01-02",
        "experiment:time": time,
        "imaging:frame rate": 2000.0,
        **changes.pop("metadata", {}),
    }
    options: dict[str, Any] = {
        "path": Path(name),
        "n_events": 10,
        "size_bytes": 1,
        "metadata": metadata,
        "identifier": name,
        "start": start_of(metadata),
        "columns": {
            key: column(key, item.dtype, item.item_shape or (), path=Path(name))
            for key, item in COLUMNS.items()
        },
    }
    return JoinInput(**{**options, **changes})


def problems(*inputs: JoinInput, **options: Any) -> list[str]:
    with pytest.raises(MismatchError) as caught:
        plan_join(inputs, **options)
    return list(caught.value.problems)


def names(plan: JoinPlan) -> list[str]:
    return [item.name for item in plan.inputs]


@pytest.mark.parametrize(
    ("date", "time", "seconds"),
    [
        ("2024-01-02", "00:00:01", 1.0),
        ("2024-01-02", "00:00:01.25", 1.25),
        ("2024-01-03", "00:00:00", 86400.0),
    ],
)
def test_start_times(date: str, time: str, seconds: float) -> None:
    first = start_of({"experiment:date": "2024-01-02", "experiment:time": "00:00:00"})
    start = start_of({"experiment:date": date, "experiment:time": time})
    assert first is not None
    assert start is not None
    assert (start - first).total_seconds() == seconds


@pytest.mark.parametrize(
    ("date", "time"),
    [("2024-01-02", None), (None, "10:00"), ("2.1.2024", "10:00:00"), ("2024-01-02", "10:00:x")],
)
def test_start_times_that_are_none(date: Any, time: Any) -> None:
    assert start_of({"experiment:date": date, "experiment:time": time}) is None


def test_sorted_by_time_then_run_index_then_first_time() -> None:
    inputs = [
        made("d", "10:00:01"),
        made("c", spans={"time": Span(5.0, 9.0)}, metadata={"experiment:run index": 10}),
        made("b", spans={"time": Span(0.5, 4.0)}, metadata={"experiment:run index": 10}),
        made("a", metadata={"experiment:run index": 2}),
    ]
    assert names(plan_join(inputs)) == ["a", "b", "c", "d"]
    assert names(plan_join(inputs, sort="given")) == ["d", "c", "b", "a"]


def test_offsets_by_the_starts() -> None:
    columns = {**COLUMNS, "time": column("time", np.float32), "frame": column("frame", np.float32)}
    inputs = [made("a", columns=columns), made("b", "10:00:02.5", columns=columns)]
    plan = plan_join(inputs)
    assert [(shift.time_s, shift.frame) for shift in plan.shifts] == [(0, 0), (2.5, 5000)]
    assert plan.dtypes["time"] == np.float64
    assert plan.dtypes["frame"] == np.uint64
    backwards = plan_join(inputs[::-1], sort="given")
    assert [(shift.time_s, shift.frame) for shift in backwards.shifts] == [(2.5, 5000), (0, 0)]
    assert joined_metadata(backwards.inputs)[1] == 1  # date and time are those of the earlier one


def test_nothing_changes_for_parts_of_one_measurement() -> None:
    columns = {
        **COLUMNS,
        "frame": column("frame", np.float32),
        "index_online": column("index_online"),
    }
    inputs = [
        made("a", columns=columns, spans={"frame": Span(3, 8), "index_online": Span(0, 9)}),
        made("b", columns=columns, spans={"frame": Span(8, 20), "index_online": Span(10, 19)}),
    ]
    plan = plan_join(inputs)
    assert plan.changed == frozenset()
    assert plan.dtypes["frame"] == np.float32
    assert not plan.notes


def test_offsets_that_continue() -> None:
    spans = {"time": Span(0.5, 4.0), "frame": Span(1, 8), "index_online": Span(0, 9)}
    columns = {**COLUMNS, **{name: column(name) for name in spans}}
    inputs = [made(name, start=None, columns=columns, spans=spans) for name in "abc"]
    plan = plan_join(inputs, sort="given", offsets="continue")
    assert [(s.time_s, s.frame, s.index_online) for s in plan.shifts] == [
        (0, 0, 0),
        (4.0, 9, 10),
        (8.0, 18, 20),
    ]
    untouched = plan_join(inputs, sort="given", offsets="none")
    assert {(s.time_s, s.frame, s.index_online) for s in untouched.shifts} == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("dtype", "n_events", "expected"),
    [
        (np.uint8, 100, np.uint8),
        (np.uint8, 200, np.uint64),
        (np.float32, 2**23, np.float32),
        (np.float32, 2**24, np.float64),
        (np.int64, 2**24, np.int64),
    ],
)
def test_dtype_of_the_index(dtype: Any, n_events: int, expected: Any) -> None:
    columns = {"index": column("index", dtype)}
    inputs = [made(name, columns=columns, n_events=n_events) for name in "ab"]
    assert plan_join(inputs).dtypes["index"] == expected


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((np.float32, np.float64), np.float64),
        ((np.uint8, np.int16), np.int16),
        ((np.float32, np.int16), np.float32),
        ((np.uint64, np.int64), None),
        ((np.float64, np.int64), None),
        ((np.float32, np.int32), np.float64),
    ],
)
def test_dtypes_of_inputs(dtypes: tuple[Any, Any], expected: Any) -> None:
    inputs = [
        made(name, columns={"userdef1": column("userdef1", dtype)})
        for name, dtype in zip("ab", dtypes, strict=True)
    ]
    if expected is None:
        (line,) = problems(*inputs)
        assert "dtypes that no dtype can hold together" in line
    else:
        assert plan_join(inputs).dtypes["userdef1"] == expected


def test_all_problems_are_told_at_once() -> None:
    inputs = [
        made("a", metadata={"setup:medium": "PBS", "setup:flow rate": 0.04}),
        made("b", identifier="a", metadata={"setup:medium": "CellCarrier"}),
        made("c", "?", columns={"deform": COLUMNS["deform"]}),
        made("d", columns={**COLUMNS, "image": column("image", np.uint8, (6, 5))}),
    ]
    lines = problems(*inputs, problems=["'e': it is damaged"])
    told = [
        "'e': it is damaged",
        "'c': expected the attributes 'experiment:date' and 'experiment:time'",
        "'a', 'b': expected different measurements",
        "'setup:medium' differs: 'PBS' in 'a'; 'CellCarrier' in 'b'",
        "'c' lacks a feature that others have: image",
    ]
    assert len(lines) == len(told)
    assert all(any(line.startswith(part) for line in lines) for part in told), lines
    (line,) = problems(inputs[0], inputs[3])
    assert line.startswith("feature 'image' has different shapes: (4, 5) in 'a'; (6, 5) in 'd'")


def test_the_error_survives_a_journey() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(MismatchError("2 problems", ["one", "two"])))
    assert error.problems == ("one", "two")
    assert str(error) == "2 problems\n- one\n- two"


def test_differences_that_are_allowed_or_small() -> None:
    inputs = [
        made("a", metadata={"setup:flow rate": 0.04, "setup:temperature": 23.0}),
        made("b", metadata={"setup:flow rate": 0.08, "user:only": 1}),
    ]
    (line,) = problems(*inputs)
    assert line.endswith("allow_differences=True (--allow-differences) joins them all the same")
    notes = plan_join(inputs, allow_differences=True).notes
    assert [note.partition(" ")[0] for note in notes] == [
        "'setup:flow",
        "'setup:temperature'",
        "'user:only'",
    ]
    close = [made("a", metadata={"imaging:pixel size": 0.34})]
    close.append(made("b", metadata={"imaging:pixel size": float(np.float32(0.34))}))
    assert not plan_join(close).notes


def test_common_features() -> None:
    inputs = [
        made("a", columns={**COLUMNS, "temp": column("temp")}),
        made("b", columns={**COLUMNS, "image": column("image", np.uint8, (9, 9))}),
    ]
    assert len(problems(*inputs)) == 2
    plan = plan_join(inputs, features="common")
    assert list(plan.features) == ["deform"]
    assert plan.omitted[0] == "left out: 'b' lacks a feature that others have: temp"
    assert plan.omitted[1].startswith("left out: feature 'image' has different shapes")


def basin(kind: str = "file", features: Any = ("image",), **changes: Any) -> LinkedBasin:
    form = {"file": "hdf5", "remote": "http", "internal": "h5dataset"}[kind]
    described = Basin(
        "origin", kind, form, ("o.rtdc",), features, mapping=changes.pop("mapping", None)
    )
    options = {
        "key": "k",
        "basin": described,
        "target": (kind, "o.rtdc", features),
        "reachable": kind != "remote",
        "reason": None,
        "features": tuple(features or ()),
    }
    return LinkedBasin(**{**options, **changes})


def linked(**changes: Any) -> dict[str, Column]:
    return {
        "deform": COLUMNS["deform"],
        "image": column(
            "image", np.uint8, (4, 5), way="file", basin="k", path=Path("o"), **changes
        ),
    }


def test_a_basin_that_all_have_stays_one() -> None:
    inputs = [made(name, columns=linked(), basins=(basin(),)) for name in "ab"]
    plan = plan_join(inputs)
    assert plan.features == {"deform": "stored", "image": "linked"}
    assert len(plan.linked) == 1


def test_the_data_of_different_basins_are_stored() -> None:
    inputs = [
        made(name, columns=linked(), basins=(basin(target=("file", name)),)) for name in "ab"
    ]
    plan = plan_join(inputs)
    assert plan.features["image"] == "stored"
    assert [len(left) for left in plan.left_out] == [1, 1]
    assert not plan.omitted  # all that it provided is there


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (basin("remote", target=("here",)), "image"),
        (basin("remote", None, target=("here",)), "features that it does not list"),
        (basin(reachable=False, reason="not there", target=("here",)), "(not there): image"),
        (basin(features=("image", "qpi_pha"), target=("here",)), "qpi_pha"),
    ],
    ids=["remote", "remote, all", "unreachable", "not all readable"],
)
def test_basins_whose_data_would_be_lost(first: LinkedBasin, told: str) -> None:
    columns = {"deform": COLUMNS["deform"]}
    if first.reachable:
        columns = linked()
    other = made(
        "b", columns=columns, basins=(basin(target=("there",)),) if first.reachable else ()
    )
    inputs = [made("a", columns=columns, basins=(first,)), other]
    (line,) = problems(*inputs)
    assert told in line
    assert "--drop-basins" in line
    assert told in plan_join(inputs, drop_basins=True).omitted[0]


def test_a_remote_basin_of_which_nothing_is_needed() -> None:
    inputs = [made("a", basins=(basin("remote"),)), made("b")]
    plan = plan_join(inputs)
    assert not plan.linked
    assert not plan.omitted


def test_counters_of_a_common_basin_are_stored_where_they_change() -> None:
    columns = {name: column(name, way="file", basin="k") for name in ("deform", "time", "index")}
    inputs = [
        made(name, time, columns=columns, basins=(basin(features=None),))
        for name, time in (("a", "10:00:00"), ("b", "10:00:01"))
    ]
    assert plan_join(inputs).features == {"deform": "linked", "time": "stored", "index": "stored"}


def test_ten_mappings_at_most() -> None:
    columns = {
        f"userdef{n}": column(f"userdef{n}", way="internal", basin=f"k{n}") for n in range(9)
    }
    columns["emodulus"] = column("emodulus", way="internal", basin="k9")
    inputs = [made(name, columns=columns, basins=(basin(),)) for name in "ab"]
    plan = plan_join(inputs)
    assert (len(plan.linked), len(plan.internal), plan.names("stored")) == (1, 9, ["userdef8"])


def test_virtual() -> None:
    trace = column("trace/fl1_raw", np.int16, (6,))
    scattered = column("image_bg", np.uint8, (4, 5), first_row=None)
    columns = {**made("x").columns, "trace/fl1_raw": trace, "image_bg": scattered}
    inputs = [
        made(
            name, columns={**columns, "image": column("image", np.uint8, (4, 5), path=Path(name))}
        )
        for name in "ab"
    ]
    plan = plan_join(inputs, virtual=True)
    assert plan.features == {
        "deform": "stored",
        "image": "virtual",
        "image_bg": "mapped",  # one file holds all of them
        "trace/fl1_raw": "virtual",  # dclab reads no traces through a mapping
    }


def test_virtual_copies_what_cannot_be_referred_to() -> None:
    inputs = [
        made(
            name,
            columns={"image": column("image", np.uint8, (4, 5), path=Path(name), first_row=None)},
        )
        for name in "ab"
    ]
    plan = plan_join(inputs, virtual=True)
    assert plan.features == {"image": "stored"}
    assert plan.notes == ("feature 'image' is copied, because it cannot be referred to",)


@pytest.mark.parametrize("option", ["sort", "offsets", "features"])
def test_options_with_other_values(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option}: expected one of"):
        plan_join([made("a"), made("b")], **{option: "x"})  # type: ignore[arg-type]


def test_the_identifier_begins_with_that_of_the_first() -> None:
    inputs = [made("a"), made("b")]
    identifier = joined_identifier(inputs)
    assert identifier is not None
    assert identifier.startswith("a_dcwrite-")
    assert identifier == joined_identifier(inputs)
    assert identifier != joined_identifier([*inputs, made("c")])
    assert joined_identifier([made("a", identifier=None), made("b")]) is None


def test_lines_of_metadata_are_short() -> None:
    lines = configuration_lines({"user:text": "\u00b5" * 150, "setup:medium": "PBS", "user:n": 1})
    assert lines[:2] == ["[setup]", "medium = PBS"]
    assert max(len(line.encode()) for line in lines) <= 100
    assert "".join(line.strip() for line in lines).count("\u00b5") == 150
