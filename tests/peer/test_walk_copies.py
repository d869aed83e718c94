"""copy_features, copy_metadata, copy_basins and create_with_basins beside dcnum's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dcwrite
from tests.peer.judge import (
    PEER_REASON,
    assert_same_content,
    basin_dicts,
    recording,
    simulated_file,
)

dcnum_write = pytest.importorskip("dcnum.write", reason=PEER_REASON)

pytestmark = pytest.mark.peer

MODULES = ((dcwrite, "ours.rtdc"), (dcnum_write, "theirs.rtdc"))


def dataset_features(path: Path) -> list[str]:
    with h5py.File(path) as h5:
        return [feat for feat, item in h5["events"].items() if isinstance(item, h5py.Dataset)]


def with_both(folder: Path, source: Path, action: Callable[[Any, Any, Any], None]) -> list[Path]:
    """Run `action(module, h5_src, h5_dst)` with both; the files that they made."""
    made = []
    for module, name in MODULES:
        with h5py.File(source) as h5_src, h5py.File(folder / name, "w") as h5_dst:
            action(module, h5_src, h5_dst)
        made.append(folder / name)
    return made


def test_copy_features_whole(tmp_path: Path, source: Path) -> None:
    features = dataset_features(source)
    paths = with_both(tmp_path, source, lambda m, src, dst: m.copy_features(src, dst, features))
    assert_same_content(*paths)


def test_copy_features_twice(tmp_path: Path, simulated_path: Path) -> None:
    def action(module: Any, src: h5py.File, dst: h5py.File) -> None:
        module.copy_features(src, dst, ["deform", "time"])
        module.copy_features(src, dst, ["deform", "image"])

    assert_same_content(*with_both(tmp_path, simulated_path, action))


def assert_same_mapped(
    folder: Path,
    source: Path,
    mapping: np.ndarray,
    features: list[str] | None = None,
    **options: Any,
) -> None:
    """The attributes are compared elsewhere: dcnum drops them."""
    with h5py.File(source) as h5:
        features = features or dataset_features(source)
        features = [feat for feat in features if len(h5["events"][feat])]
        lengths = {len(h5["events"][feat]) for feat in features}
    mapping = mapping[mapping < min(lengths, default=0)]

    def action(module: Any, src: h5py.File, dst: h5py.File) -> None:
        # dcnum adds to the arguments that it is given
        kwds = {key: dict(value) for key, value in options.items()}
        module.copy_features(src, dst, features, mapping=mapping, **kwds)
        for feat in features:
            for name in list(dst[f"events/{feat}"].attrs):
                del dst[f"events/{feat}"].attrs[name]

    assert_same_content(*with_both(folder, source, action))


MAPPINGS = {
    "all": np.arange(1000),
    "some": np.array([0, 2, 3, 5, 6, 9, 17, 31, 39, 200, 300]),
    "one": np.array([4]),
    "repeats": np.repeat(np.arange(0, 60, 3), 3),
    "none": np.array([], dtype=int),
}


@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=MAPPINGS.keys())
def test_copy_features_mapped(tmp_path: Path, source: Path, mapping: np.ndarray) -> None:
    assert_same_mapped(tmp_path, source, mapping)


@pytest.mark.parametrize("ds_kwds", [{"compression": "gzip"}, {"compression": None}])
def test_copy_features_mapped_with_arguments(
    tmp_path: Path, simulated_path: Path, ds_kwds: dict[str, Any]
) -> None:
    assert_same_mapped(tmp_path, simulated_path, MAPPINGS["some"], ds_kwds=ds_kwds)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mapping=st.lists(st.integers(0, 330), max_size=500).map(sorted))
def test_copy_features_any_sorted_mapping(
    tmp_path: Path, simulated_path: Path, mapping: list[int]
) -> None:
    features = ["deform", "frame", "image", "mask"]
    assert_same_mapped(tmp_path, simulated_path, np.array(mapping, dtype=np.int64), features)


def test_copied_attributes_of_mapped_features(tmp_path: Path, simulated_path: Path) -> None:
    """Where dcnum drops the attributes: they are those of the rows that were copied."""
    mapping = np.array([3, 1, 1])
    with h5py.File(simulated_path) as src, h5py.File(tmp_path / "x.rtdc", "w") as dst:
        dcwrite.copy_features(src, dst, ["deform", "image", "frame"], mapping=mapping)
        for feat in ("deform", "frame"):
            rows = src["events"][feat][:][mapping]
            attrs = dst["events"][feat].attrs
            assert {"min": rows.min(), "max": rows.max(), "mean": rows.mean()} == dict(attrs)
        assert dict(dst["events/image"].attrs) == dict(src["events/image"].attrs)


def test_copy_metadata(tmp_path: Path, source: Path) -> None:
    paths = with_both(tmp_path, source, lambda module, src, dst: module.copy_metadata(src, dst))
    assert_same_content(*paths, ignored_attributes=["software"])
    for path, name in zip(paths, ("dcwrite ", "dcnum "), strict=True):
        with h5py.File(path) as h5:
            for dset in h5.get("logs", {}).values():
                assert dset.attrs["software"].split(" | ")[-1].startswith(name)


def test_copy_metadata_keeps_what_is_there(tmp_path: Path, simulated_path: Path) -> None:
    def action(module: Any, src: h5py.File, dst: h5py.File) -> None:
        dst.attrs["setup:medium"] = "water"
        with module.HDF5Writer(dst) as writer:
            writer.store_log("simulation", ["mine"])
        module.copy_metadata(src, dst)

    paths = with_both(tmp_path, simulated_path, action)
    assert_same_content(*paths, ignored_attributes=["software"])


def store_all_basins(module: Any, path: Path) -> None:
    """Basins as both can write them, each naming its features, as dcnum's copy needs."""
    with module.HDF5Writer(path) as writer:
        n_events = len(writer.h5["events/deform"])
        halves, last = np.arange(n_events) // 2, np.full(n_events, n_events - 1)
        absolute = "/nowhere/other.rtdc"
        writer.store_basin(
            "plain", paths=[absolute], features=["userdef3"], identifier="id", description="d"
        )
        writer.store_basin("mapped", paths=[absolute], features=["userdef4"], mapping=halves)
        writer.store_basin("last", paths=[absolute], features=["userdef5"], mapping=last)
        writer.store_basin(
            "internal",
            internal_data={"userdef1": np.arange(n_events, dtype=float),
                           "qpi_oah": np.zeros((n_events, 9, 8), np.uint8)},
            mapping=halves,
        )  # fmt: skip


@pytest.mark.parametrize("internal_basins", [True, False])
@pytest.mark.parametrize("writes", [dcwrite, dcnum_write], ids=["ours", "theirs"])
def test_copy_basins(
    tmp_path: Path, simulated_path: Path, writes: Any, internal_basins: bool
) -> None:
    source = tmp_path / "source.rtdc"
    source.write_bytes(simulated_path.read_bytes())
    store_all_basins(writes, source)

    def action(module: Any, src: h5py.File, dst: h5py.File) -> None:
        module.copy_features(src, dst, ["deform"])
        # a mapping that is there already: the others move on by one
        dst["events/basinmap0"] = np.arange(len(dst["events/deform"]))[::-1].copy()
        module.copy_basins(src, dst, internal_basins=internal_basins)

    paths = with_both(tmp_path, source, action)
    assert_same_content(*paths)
    assert len(basin_dicts(paths[0])) == 3 + internal_basins


def without_description(path: Path, *, identifier: bool = True) -> list[str]:
    """The description names the program, and the name of the dataset depends on it."""
    found = basin_dicts(path).values()
    assert all(basin.pop("description").startswith("Created by dc") for basin in found)
    for basin in found:
        if not identifier:
            basin["identifier"] = None
    return sorted(json.dumps(basin) for basin in found)


def has_bytes_attributes(path: Path) -> bool:
    """Where attributes are bytes, dcnum makes the identifier of "b'...'", and dclab does not.

    Each refuses the other's, so dcwrite stores none.
    """
    with h5py.File(path) as h5:
        return any(isinstance(value, bytes) for value in h5.attrs.values())


@pytest.mark.parametrize("form", ["relative", "absolute", "both", "missing", "missing-first"])
def test_create_with_basins(tmp_path: Path, source: Path, form: str) -> None:
    basin = tmp_path / "basin.rtdc"
    basin.write_bytes(source.read_bytes())
    locations = {
        "relative": ["basin.rtdc"],
        "absolute": [str(basin)],
        "both": [[basin, "basin.rtdc"]],
        "missing": ["nowhere.rtdc", "basin.rtdc"],
        "missing-first": [["nowhere.rtdc", "basin.rtdc"]],
    }[form]
    for module, name in MODULES:
        module.create_with_basins(tmp_path / name, locations)
    ours, theirs = tmp_path / "ours.rtdc", tmp_path / "theirs.rtdc"
    assert_same_content(ours, theirs, ignored_attributes=["software"], ignored_groups=["basins"])
    identifier = not has_bytes_attributes(source)
    assert without_description(ours) == without_description(theirs, identifier=identifier)


def test_create_with_basins_of_basins(tmp_path: Path, simulated_path: Path) -> None:
    """The second file's basin is reached through the third."""
    (tmp_path / "data.rtdc").write_bytes(simulated_path.read_bytes())
    dcwrite.create_with_basins(tmp_path / "middle.rtdc", ["data.rtdc"])
    for module, name in MODULES:
        module.create_with_basins(tmp_path / name, ["middle.rtdc"])
    texts = [without_description(tmp_path / name) for _, name in MODULES]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_create_without_basins_warns(tmp_path: Path, name: str) -> None:
    module = {"ours": dcwrite, "theirs": dcnum_write}[name]
    with pytest.warns(UserWarning, match="without any basin"):
        module.create_with_basins(tmp_path / "out.rtdc", [])


# a real recording has a metadata value of a type that dclab does not expect
@pytest.mark.filterwarnings("ignore:Type of configuration key:UserWarning")
def test_identifier(source: Path) -> None:
    """That of dclab, and of dcnum where they agree."""
    import dclab
    from dcnum.read import get_measurement_identifier

    with h5py.File(source) as h5, dclab.rtdc_dataset.fmt_hdf5.RTDC_HDF5(source) as ds:
        identifier = dcwrite.get_measurement_identifier(h5)
        assert identifier == ds.get_measurement_identifier()
        assert has_bytes_attributes(source) or identifier == get_measurement_identifier(h5)


def test_identifier_of_a_run(tmp_path: Path) -> None:
    from dcnum.read import get_measurement_identifier

    path = simulated_file(
        tmp_path / "x.rtdc",
        recording(frames=5),
        metadata={"experiment:run identifier": "run-7"},
    )
    with h5py.File(path) as h5:
        assert dcwrite.get_measurement_identifier(h5) == "run-7"
        assert get_measurement_identifier(h5) == "run-7"
