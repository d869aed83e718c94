"""HDF5Writer beside dcnum's: the same calls give equal files.

Steps are (method, arguments). Both writers take them; each step's outcome (done, or a ValueError)
and the files are compared. Where dcwrite is meant to differ, docs/differences.md says so, and the
steps here stay away from it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dcwrite
from tests.peer.judge import PEER_REASON, assert_same_content

dcnum_write = pytest.importorskip("dcnum.write", reason=PEER_REASON)

pytestmark = pytest.mark.peer

Step = tuple[str, dict[str, Any]]

#: Feature -> shape and dtype of an event. Images of 12 kB: 87 in a chunk; scalars: 1000.
FEATURES: dict[str, tuple[tuple[int, ...], str]] = {
    "deform": ((), "float64"),
    "area_um": ((), "float32"),
    "index_online": ((), "int64"),
    "ml_class": ((), "int32"),
    "frame": ((), "uint64"),
    "fl1_max": ((), "uint32"),
    "nevents": ((), "uint16"),
    "userdef1": ((), "uint8"),
    "userdef2": ((), "bool"),
    "image": ((100, 120), "uint8"),
    "image_bg": ((100, 120), "uint8"),
    "mask": ((100, 120), "bool"),
    "qpi_pha": ((7, 9), "float32"),
    "userdef3": ((5,), "int16"),
}

DS_KWDS: dict[str, dict[str, Any] | None] = {
    "default": None,
    "gzip": {"compression": "gzip"},
    "gzip-9-shuffle": {"compression": "gzip", "compression_opts": 9, "shuffle": True},
    "uncompressed": {"compression": None},
    "no-checksum": {"fletcher32": False},
    "bare": {"compression": None, "fletcher32": False},
    "zstd-1": {"compression": 32015, "compression_opts": (1,)},
    "lzf": {"compression": "lzf"},
}


#: With a level: without, dcnum takes the level of the writer's own compression, and h5py refuses.
GZIP = {"compression": "gzip", "compression_opts": 4}


def rows(feat: str, n_events: int, seed: int = 0) -> np.ndarray:
    shape, dtype = FEATURES[feat]
    values = np.random.default_rng(seed).integers(0, 200, (n_events, *shape))
    if dtype == "bool":
        return values > 100
    return (values / 8 if dtype.startswith("f") else values).astype(dtype)


def store(feat: str, n_events: int, seed: int = 0) -> Step:
    return "store_feature_chunk", {"feat": feat, "data": rows(feat, n_events, seed)}


def require(feat: str, ds_kwds: dict[str, Any] | None = None) -> Step:
    item_shape, feat_dtype = FEATURES[feat]
    return "require_feature", {
        "feat": feat,
        "item_shape": item_shape,
        "feat_dtype": np.dtype(feat_dtype),
        "ds_kwds": ds_kwds,
    }


def log(name: str, lines: list[str], **options: bool) -> Step:
    return "store_log", {"log": name, "data": lines, **options}


def basin(name: str, **arguments: Any) -> Step:
    return "store_basin", {"name": name, **arguments}


#: Steps that dcnum takes too; it makes a bool mask a dataset of bool, and then stores 255 in it.
REQUIRED = sorted(FEATURES.keys() - {"mask"})

FILE_BASIN = basin("file", paths=["a.rtdc", Path("/b/c.rtdc")], features=["image", "deform"])
MAPPING = np.array([0, 0, 2, 1, 1, 1])
INTERNAL = {"internal_data": {"userdef1": rows("userdef1", 3)}, "mapping": MAPPING}

WALKS: dict[str, list[Step]] = {
    "nothing": [],
    **{f"one-{feat}": [store(feat, 3)] for feat in FEATURES},
    "no-events": [store("deform", 0), store("image", 0), store("mask", 0)],
    "single-events": [store("image", 1, seed) for seed in range(5)],
    "batches-of-13": [store(feat, 13, s) for s in range(9) for feat in ("image", "mask")],
    "exact-chunks": [store("image", 87), store("image", 87, 1), store("deform", 1000)],
    "past-chunks": [store("image", 86), store("image", 90, 1), store("deform", 2501)],
    "one-short": [store("image", 86), store("image", 1), store("image", 87)],
    "required-first": [require("image"), store("image", 4), require("image"), require("deform")],
    "required-filters": [require("image", GZIP), store("image", 90)],
    "logs": [log("a", ["one", "line two"]), log("b", ["x" * 300] * 50), log("c", ["", "y"])],
    "log-twice": [log("a", ["one"]), log("a", ["two"])],
    "log-override": [log("a", ["one"] * 9), log("a", ["two"], override=True)],
    "basin-file": [FILE_BASIN],
    "basin-file-twice": [FILE_BASIN, FILE_BASIN],
    "basin-all-features": [basin("x", paths=["p"]), basin("x", paths=["p"], features=[])],
    "basin-described": [
        basin("x", paths=["p"], description="umlaut ä\nline", identifier="id-1", mapping=MAPPING)
    ],
    "basin-one-mapping": [
        basin("x", paths=["p"], mapping=MAPPING),
        basin("y", paths=["q"], mapping=MAPPING.copy()),
        basin("z", paths=["q"], mapping=MAPPING[::-1]),
    ],
    "basin-internal": [basin("i", **INTERNAL), FILE_BASIN],
    "basin-internal-image": [
        basin("i", internal_data={"image": rows("image", 3), "mask": rows("mask", 3)},
              mapping=MAPPING.astype(np.uint32)),
    ],
    "basin-internal-twice": [basin("i", **INTERNAL), basin("j", **INTERNAL)],
    "basin-without-location": [basin("x"), basin("x", features=["deform"])],
    "basin-internal-and-paths": [basin("x", paths=["p"], **INTERNAL)],
    "basin-11-mappings": [
        basin("x", paths=["p"], mapping=np.full(4, number)) for number in range(11)
    ],
    "full": [
        store("deform", 6), store("image", 6), store("mask", 6), FILE_BASIN,
        basin("i", **INTERNAL), log("job", ["{", "}"]), store("deform", 6, 1),
    ],
}  # fmt: skip


def play(
    make_writer: Callable[..., Any], path: Path, ds_kwds: Any, steps: Sequence[Step]
) -> list[str]:
    """Run the steps; `done` or the kind of error for each."""
    outcomes = []
    with make_writer(path, mode="x", ds_kwds=copy.deepcopy(ds_kwds)) as writer:
        for method, arguments in steps:
            try:
                getattr(writer, method)(**copy.deepcopy(arguments))
            except ValueError:
                outcomes.append("ValueError")
            else:
                outcomes.append("done")
    return outcomes


def assert_same_walk(folder: Path, ds_kwds: Any, steps: Sequence[Step]) -> None:
    ours = play(dcwrite.HDF5Writer, folder / "ours.rtdc", ds_kwds, steps)
    theirs = play(dcnum_write.HDF5Writer, folder / "theirs.rtdc", ds_kwds, steps)
    assert ours == theirs
    assert_same_content(folder / "ours.rtdc", folder / "theirs.rtdc")


@pytest.mark.parametrize("steps", WALKS.values(), ids=WALKS.keys())
def test_walk(tmp_path: Path, steps: list[Step]) -> None:
    assert_same_walk(tmp_path, None, steps)


@pytest.mark.parametrize("ds_kwds", DS_KWDS.values(), ids=DS_KWDS.keys())
def test_walk_with_dataset_arguments(tmp_path: Path, ds_kwds: dict[str, Any] | None) -> None:
    steps = [
        *WALKS["full"], *WALKS["past-chunks"], *WALKS["required-filters"],
        *WALKS["basin-internal-twice"], log("long", ["x" * 90] * 200),
    ]  # fmt: skip
    assert_same_walk(tmp_path, ds_kwds, steps)


def test_walk_continues_a_file(tmp_path: Path) -> None:
    """Each writer goes on with the other's file: unfinished chunks are taken up."""
    for first, second, name in (
        (dcwrite.HDF5Writer, dcnum_write.HDF5Writer, "ours-theirs"),
        (dcnum_write.HDF5Writer, dcwrite.HDF5Writer, "theirs-ours"),
        (dcnum_write.HDF5Writer, dcnum_write.HDF5Writer, "theirs-theirs"),
        (dcwrite.HDF5Writer, dcwrite.HDF5Writer, "ours-ours"),
    ):
        for seed, writer in enumerate((first, second, first, second)):
            with writer(tmp_path / name) as hw:
                for feat in FEATURES:
                    hw.store_feature_chunk(feat, rows(feat, 61, seed))
    for name in ("ours-theirs", "theirs-ours", "ours-ours"):
        assert_same_content(tmp_path / name, tmp_path / "theirs-theirs")


def test_required_mask_of_bool_is_stored_as_uint8(tmp_path: Path) -> None:
    """Not as in dcnum, whose dataset is then of bool and holds 127."""
    path = tmp_path / "x.rtdc"
    with dcwrite.HDF5Writer(path) as writer:
        writer.require_feature("mask", (100, 120), np.dtype(bool))
        writer.store_feature_chunk("mask", rows("mask", 2))
        assert writer.h5["events/mask"].dtype == np.uint8
        assert np.array_equal(writer.h5["events/mask"], rows("mask", 2) * np.uint8(255))


def test_mask_of_bool_in_a_foreign_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.rtdc", "w") as h5:
        expected = rows("mask", 5)
        h5.create_dataset(
            "events/mask", data=expected[:2], chunks=(3, 100, 120), maxshape=(None, 100, 120)
        )
        with dcwrite.HDF5Writer(h5) as writer:
            writer.store_feature_chunk("mask", expected[2:])
        assert np.array_equal(h5["events/mask"], expected)


@pytest.mark.parametrize("item_shape", [(), (1,), (5,), (80, 320), (2, 3, 4), (2000, 2000)])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32", "float64"])
def test_best_chunks(item_shape: tuple[int, ...], dtype: str) -> None:
    arguments = {"item_shape": item_shape, "feat_dtype": np.dtype(dtype)}
    ours = dcwrite.HDF5Writer.get_best_nd_chunks(**arguments)
    assert ours == dcnum_write.HDF5Writer.get_best_nd_chunks(**arguments)


@pytest.mark.parametrize("ds_kwds", DS_KWDS.values(), ids=DS_KWDS.keys())
@pytest.mark.parametrize("compression", [True, False])
def test_default_filter_kwargs(ds_kwds: dict[str, Any] | None, compression: bool) -> None:
    from dcnum.write.writer import set_default_filter_kwargs

    expected = set_default_filter_kwargs(copy.deepcopy(ds_kwds), compression)
    assert dcwrite.set_default_filter_kwargs(ds_kwds, compression) == expected


SEEDS = st.integers(0, 3)
LINES = st.lists(st.text("abc {}:", max_size=12), min_size=1, max_size=4).filter(any)
MAPPINGS = st.lists(st.integers(0, 2), min_size=6, max_size=6).map(np.array)

ANY_STEP = st.one_of(
    # each chunk boundary, from both sides
    st.builds(
        store,
        st.sampled_from(sorted(FEATURES)),
        st.sampled_from([0, 1, 2, 13, 43, 86, 87, 88, 175, 500, 999, 1001]),
        SEEDS,
    ),
    st.builds(
        require,
        st.sampled_from(REQUIRED),
        st.sampled_from([None, GZIP, {"fletcher32": False}]),
    ),
    st.builds(log, st.sampled_from("ab"), LINES),
    st.builds(log, st.sampled_from("ab"), LINES, override=st.just(True)),
    st.builds(
        basin,
        st.sampled_from(["x", "y"]),
        paths=st.lists(st.sampled_from(["p.rtdc", "/q/r.rtdc"]), min_size=1, max_size=2),
        features=st.none() | st.just(["deform", "image"]),
        description=st.none() | st.text("abä", max_size=5),
        mapping=st.none() | MAPPINGS,
        identifier=st.none() | st.just("id"),
    ),
    st.builds(
        lambda feat, seed, mapping: basin(
            "i", internal_data={feat: rows(feat, 3, seed)}, mapping=mapping
        ),
        st.sampled_from(["image", "userdef1"]),
        SEEDS,
        MAPPINGS,
    ),
)


@settings(max_examples=40)
@given(
    ds_kwds=st.sampled_from(["default", "default", "gzip", "bare"]),
    steps=st.lists(ANY_STEP, max_size=12),
)
def test_any_walk(ds_kwds: str, steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_same_walk(Path(folder), DS_KWDS[ds_kwds], steps)
