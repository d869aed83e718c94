"""What dclab's RTDCWriter writes, copied by dcwrite, is for dclab what it was before."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from tests.peer.judge import PEER_REASON, assert_same_content, basin_dicts, recording

dclab = pytest.importorskip("dclab", reason=PEER_REASON)

from dclab.rtdc_dataset.feat_basin import chop_images  # noqa: E402 - after the check above
from dclab.rtdc_dataset.fmt_hdf5 import RTDC_HDF5  # noqa: E402

pytestmark = [
    pytest.mark.peer,
    # dclab warns of what it is made to do here on purpose
    pytest.mark.filterwarnings("ignore:Storing perishable basin:UserWarning"),
    pytest.mark.filterwarnings("ignore:Ignored basin of format:UserWarning"),
]

N_EVENTS = 120


@functools.cache
def rows() -> dict[str, np.ndarray]:
    simulated = recording()
    frames = [simulated.frame_events(frame) for frame in range(len(simulated))]
    found = [events for events in frames if events is not None]
    features = (
        *("deform", "area_um", "area_msd", "frame", "time", "temp", "size_x", "size_y"),
        *("image", "image_bg", "mask"),
    )
    return {
        feat: np.concatenate([events[feat] for events in found])[:N_EVENTS] for feat in features
    }


def new_file(path: Path) -> Any:
    """An RTDCWriter with metadata."""
    writer = dclab.RTDCWriter(path, mode="reset")
    meta: dict[str, dict[str, Any]] = {}
    for name, value in recording().metadata().items():
        section, _, key = name.partition(":")
        meta.setdefault(section, {})[key] = value
    writer.store_metadata(meta)
    return writer


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that dclab has written: all kinds of features, a log, a table."""
    path: Path = tmp_path_factory.mktemp("dclab") / "data.rtdc"
    rng = np.random.default_rng(2)
    with new_file(path) as writer:
        for feat, values in rows().items():
            writer.store_feature(feat, values)
        writer.store_feature("fl1_max", rng.integers(1, 99, N_EVENTS))
        writer.store_feature("index", np.arange(1, N_EVENTS + 1))
        writer.store_feature(
            "trace", {"fl1_raw": rng.integers(-9, 9, (N_EVENTS, 20)).astype(np.int16)}
        )
        writer.store_feature(
            "contour", [rng.integers(0, 40, (3 + i % 5, 2)) for i in range(N_EVENTS)]
        )
        writer.store_log("acquisition", ["first", "umlaut ä µm", ""])
        writer.store_table("cytoshot-monitor", {"time": np.arange(9), "level": np.ones(9)})
    return path


def copy_whole(source: Path, path: Path, mapping: np.ndarray | None = None) -> None:
    with h5py.File(source) as h5, h5py.File(path, "w") as h5_out:
        dcwrite.copy_metadata(h5, h5_out)
        features = [feat for feat in h5["events"] if not feat.startswith("basinmap")]
        dcwrite.copy_features(h5, h5_out, features, mapping=mapping)
        if mapping is None:
            dcwrite.copy_basins(h5, h5_out)


def assert_dclab_sees_the_same(
    path: Path, path_expected: Path, order: np.ndarray | slice = slice(None)
) -> None:
    with RTDC_HDF5(path) as ds, RTDC_HDF5(path_expected) as expected:
        own, from_basins = set(expected.features_innate), set(expected.features_basin)
        # a copied mapping gets the first free name
        assert {f for f in ds.features_innate if not f.startswith("basinmap")} == {
            f for f in own if not f.startswith("basinmap")
        }
        assert set(ds.features_basin) == from_basins
        features = {feat for feat in own | from_basins if not feat.startswith("basinmap")}
        if "trace" not in own:
            features.discard("trace")  # dclab cannot read it through a mapping
        for feat in sorted(features):
            if feat == "trace":
                assert list(ds["trace"]) == list(expected["trace"])
                for name in expected["trace"]:
                    assert np.array_equal(ds[feat][name][:], expected[feat][name][:][order]), name
            elif feat == "contour":
                numbers = np.arange(len(expected))[order]
                assert len(ds[feat]) == len(numbers)
                for index, number in enumerate(numbers):
                    assert np.array_equal(ds[feat][index], expected[feat][int(number)])
            else:
                assert np.array_equal(ds[feat][:], np.asarray(expected[feat][:])[order]), feat
        assert dict(ds.logs) == dict(expected.logs)
        assert set(ds.tables) == set(expected.tables)
        for name in ds.tables:
            assert np.array_equal(ds.tables[name][:], expected.tables[name][:])


def test_copy_of_all_kinds(tmp_path: Path, data_path: Path) -> None:
    path = tmp_path / "copy.rtdc"
    copy_whole(data_path, path)
    assert_same_content(path, data_path, ignored_attributes=["software"], ignored_groups=["logs"])
    assert_dclab_sees_the_same(path, data_path)


@pytest.mark.parametrize(
    "mapping",
    [np.arange(N_EVENTS), np.array([7, 3, 3, 119, 0]), np.array([8])],
    ids=["all", "unsorted", "one"],
)
def test_mapped_copy_of_all_kinds(tmp_path: Path, data_path: Path, mapping: np.ndarray) -> None:
    path = tmp_path / "copy.rtdc"
    copy_whole(data_path, path, mapping)
    with h5py.File(path, "a") as h5:
        assert h5.attrs["experiment:event count"] == len(mapping)
    assert_dclab_sees_the_same(path, data_path, mapping)


def store_file_basin(writer: Any, data_path: Path, **arguments: Any) -> None:
    writer.store_basin(
        basin_name="data",
        basin_type="file",
        basin_format="hdf5",
        basin_locs=[data_path],
        **arguments,
    )


def file_basin(writer: Any, data_path: Path) -> None:
    store_file_basin(writer, data_path)


def file_basin_with_features(writer: Any, data_path: Path) -> None:
    store_file_basin(writer, data_path, basin_feats=["image", "area_um"], basin_descr="two")


def mapped_file_basin(writer: Any, data_path: Path) -> None:
    store_file_basin(writer, data_path, basin_map=np.arange(N_EVENTS)[::-1].copy())


def two_mapped_file_basins(writer: Any, data_path: Path) -> None:
    store_file_basin(
        writer, data_path, basin_map=np.zeros(N_EVENTS, dtype=int), basin_feats=["image"]
    )
    store_file_basin(writer, data_path, basin_map=np.arange(N_EVENTS) // 2, basin_feats=["mask"])


def named_mapping(writer: Any, data_path: Path) -> None:
    """The only mapping has not the first name."""
    store_file_basin(
        writer,
        data_path,
        basin_map=("basinmap4", np.arange(N_EVENTS) // 3),
        basin_feats=["area_um"],
    )


def internal_basin(writer: Any, data_path: Path) -> None:
    writer.store_basin(
        basin_name="internal",
        basin_type="internal",
        basin_format="h5dataset",
        basin_locs=["basin_events"],
        basin_feats=["image_bg", "userdef1"],
        basin_map=np.arange(N_EVENTS) // 40,
        internal_data={"image_bg": rows()["image_bg"][:3], "userdef1": np.arange(3.0)},
    )


def chopped_basin(writer: Any, data_path: Path) -> None:
    """Images as dclab's chopper cuts them, restored with background and neighbours."""
    with RTDC_HDF5(data_path) as ds:
        for feat in ("image_bg", "mask", "frame", "size_x", "size_y"):
            writer.store_feature(feat, ds[feat][:])
        writer.h5file.flush()
        chop_images.write_chopped_images(ds, "image", writer.h5file)


BASINS: list[Callable[[Any, Path], None]] = [
    file_basin,
    file_basin_with_features,
    mapped_file_basin,
    two_mapped_file_basins,
    named_mapping,
    internal_basin,
    chopped_basin,
]


def without_mappings(path: Path) -> list[str]:
    found = basin_dicts(path).values()
    return sorted(str({key: basin[key] for key in basin if key != "mapping"}) for basin in found)


@pytest.mark.parametrize("store", BASINS)
def test_copy_of_basins(
    tmp_path: Path, data_path: Path, store: Callable[[Any, Path], None]
) -> None:
    source, path = tmp_path / "source.rtdc", tmp_path / "copy.rtdc"
    with new_file(source) as writer:
        writer.store_feature("deform", rows()["deform"])
        store(writer, data_path)
    copy_whole(source, path)
    assert_dclab_sees_the_same(path, source)
    if store in {named_mapping, two_mapped_file_basins}:
        # mappings get the next free names in the order of the basins' keys
        assert without_mappings(path) == without_mappings(source)
    else:
        assert basin_dicts(path) == basin_dicts(source)
    (tmp_path / "moved").mkdir()
    moved = tmp_path / "moved" / "copy.rtdc"
    copy_whole(source, moved)
    assert_dclab_sees_the_same(moved, source)


def test_copy_of_all_basins_after_other_mappings(tmp_path: Path, data_path: Path) -> None:
    source, path = tmp_path / "source.rtdc", tmp_path / "copy.rtdc"
    with new_file(source) as writer:
        writer.store_feature("deform", rows()["deform"])
        for store in (two_mapped_file_basins, internal_basin, named_mapping):
            store(writer, data_path)
    with h5py.File(source) as h5, h5py.File(path, "w") as h5_out:
        dcwrite.copy_metadata(h5, h5_out)
        dcwrite.copy_features(h5, h5_out, ["deform"])
        with dcwrite.HDF5Writer(h5_out) as hw:
            hw.store_feature_chunk("basinmap0", np.full(N_EVENTS, 9))
        dcwrite.copy_basins(h5, h5_out)
    with h5py.File(path) as h5:
        # one for the file's own, four for the basins
        assert sum(feat.startswith("basinmap") for feat in h5["events"]) == 5
    with RTDC_HDF5(path) as ds, RTDC_HDF5(source) as expected:
        for feat in ("image", "mask", "image_bg", "userdef1", "area_um"):
            assert np.array_equal(ds[feat][:], expected[feat][:]), feat


@pytest.mark.parametrize("basin_format", ["http", "s3", "dcor"])
@pytest.mark.parametrize("perishable", [False, True])
def test_copy_of_remote_basins(tmp_path: Path, basin_format: str, perishable: bool) -> None:
    """No URL is opened here."""
    source, path = tmp_path / "source.rtdc", tmp_path / "copy.rtdc"
    with new_file(source) as writer:
        writer.store_feature("deform", rows()["deform"])
        for mapping in (None, np.arange(N_EVENTS)):
            writer.store_basin(
                basin_name="remote",
                basin_type="remote",
                basin_format=basin_format,
                basin_locs=["https://example.invalid/a", "https://example.invalid/b"],
                basin_feats=["image", "area_um"],
                basin_map=mapping,
                basin_id="id-3",
                basin_descr="far away",
                verify=False,
                perishable=perishable,
            )
    copy_whole(source, path)
    found = basin_dicts(path)
    assert found == basin_dicts(source)
    assert len(found) == 2
    with RTDC_HDF5(path, enable_basins=False) as ds:
        assert {basin["key"] for basin in ds.basins_get_dicts()} == set(found)


@pytest.mark.parametrize("mapped", [False, True])
def test_store_basin_writes_what_dclab_writes(tmp_path: Path, mapped: bool) -> None:
    """A remote basin has the same text, and with it the same key."""
    source, path = tmp_path / "source.rtdc", tmp_path / "ours.rtdc"
    mapping = np.arange(4) if mapped else None
    with new_file(source) as writer:
        writer.store_feature("deform", np.arange(4.0))
        key = writer.store_basin(
            basin_name="remote",
            basin_type="remote",
            basin_format="s3",
            basin_locs=["https://example.invalid/a"],
            basin_feats=["image", "area_um"],
            basin_map=mapping,
            verify=False,
        )
    with dcwrite.HDF5Writer(path) as hw:
        ours = hw.store_basin(
            "remote",
            urls=["https://example.invalid/a"],
            features=["image", "area_um"],
            basin_format="s3",
            mapping=mapping,
        )
    assert basin_dicts(path) == basin_dicts(source)
    assert ours == key
