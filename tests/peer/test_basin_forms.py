"""Texts and names of basins, made by dclab and dcnum themselves, survive reading and writing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.format.basin import basin_lines, parse_basin

from .judge import PEER_REASON

pytest.importorskip("dclab", reason=PEER_REASON)
pytest.importorskip("dcnum.write", reason=PEER_REASON)

pytestmark = pytest.mark.peer


DCLAB: dict[str, dict[str, Any]] = {
    "file": {"basin_type": "file", "basin_format": "hdf5", "basin_locs": ["a.rtdc", "/b.rtdc"]},
    "file-full": {
        "basin_type": "file", "basin_format": "hdf5", "basin_locs": ["a.rtdc"],
        "basin_descr": "größer", "basin_feats": ["deform", "area_um"], "basin_id": "x",
        "basin_map": np.array([1, 0, 1]),
    },
    "perishable": {
        "basin_type": "remote", "basin_format": "s3", "basin_locs": ["https://example.org/a"],
        "perishable": True,
    },
    "http": {
        "basin_type": "remote", "basin_format": "http", "basin_locs": ["https://example.org/a"],
        "basin_map": np.array([1, 0, 1]),
    },
    "dcor": {"basin_type": "remote", "basin_format": "dcor", "basin_locs": ["https://dcor/a"]},
    "internal": {
        "basin_type": "internal", "basin_format": "h5dataset", "basin_locs": ["basin_events"],
        "basin_feats": ["bg_med"], "internal_data": {"bg_med": np.array([1.0, 2.0])},
        "basin_map": np.array([1, 0, 1]),
    },
}  # fmt: skip

DCNUM: dict[str, dict[str, Any]] = {
    "file": {"paths": ["a.rtdc", Path("/b.rtdc")]},
    "file-full": {
        "paths": ["a"], "features": ["deform", "area_um"], "description": "größer",
        "mapping": np.array([1, 0, 1]), "identifier": "x",
    },
    "internal": {
        "internal_data": {"bg_med": np.array([1.0, 2.0])}, "mapping": np.array([1, 0, 1]),
    },
}  # fmt: skip


def by_dclab(path: Path, arguments: dict[str, Any]) -> None:
    from dclab.rtdc_dataset.writer import RTDCWriter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of perishable basins
        with RTDCWriter(path, mode="append") as writer:
            writer.store_basin(basin_name="n", verify=False, **arguments)


def by_dcnum(path: Path, arguments: dict[str, Any]) -> None:
    from dcnum.write import HDF5Writer

    with HDF5Writer(path, mode="w") as writer:
        writer.store_basin(name="n", **arguments)


def lines_of(path: Path) -> dict[str, list[bytes]]:
    with h5py.File(path, "r") as h5:
        return {key: dset[:].tolist() for key, dset in h5["basins"].items()}


CASES = [
    *(pytest.param(by_dclab, case, id=f"dclab-{name}") for name, case in DCLAB.items()),
    *(pytest.param(by_dcnum, case, id=f"dcnum-{name}") for name, case in DCNUM.items()),
]


@pytest.mark.parametrize(("write", "arguments"), CASES)
def test_text_and_name_survive(write: Any, arguments: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "in.rtdc", arguments)
    ((key, lines),) = lines_of(tmp_path / "in.rtdc").items()
    basin = parse_basin(lines)
    assert basin.to_text() == b"\n".join(lines).decode()
    assert basin.has_dclab_keys == (write is by_dclab)
    found, _ = basin_lines(basin.to_text(), has_dclab_keys=basin.has_dclab_keys)
    assert found == key
    with (
        h5py.File(tmp_path / "in.rtdc", "r") as h5_src,
        h5py.File(tmp_path / "out.rtdc", "w") as h5_dst,
    ):
        dcwrite.copy_basins(h5_src, h5_dst)
    assert lines_of(tmp_path / "out.rtdc").keys() == {key}


@pytest.mark.parametrize("arguments", DCNUM.values(), ids=DCNUM.keys())
def test_ours_are_those_of_dcnum(arguments: dict[str, Any], tmp_path: Path) -> None:
    by_dcnum(tmp_path / "theirs.rtdc", arguments)
    with dcwrite.HDF5Writer(tmp_path / "ours.rtdc") as writer:
        writer.store_basin(name="n", **arguments)
    assert lines_of(tmp_path / "ours.rtdc") == lines_of(tmp_path / "theirs.rtdc")


FEATURES: dict[str, np.ndarray] = {
    "deform": np.linspace(0, 0.3, 1234),
    "area_um": np.where(np.arange(1234) % 7, np.arange(1234.0), np.nan),
    "frame": np.arange(1234, dtype=np.uint64) + 3,
    "nevents": np.arange(1234, dtype=np.uint32) % 5,
    "bright_avg": np.linspace(50, 150, 1234, dtype=np.float32),
    "tilt": np.full(1234, np.nan),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("feat", FEATURES)
def test_scalar_attributes_are_those_of_dclab(feat: str, stream: bool, tmp_path: Path) -> None:
    from dclab.rtdc_dataset.writer import RTDCWriter

    data = FEATURES[feat]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of slices of not-a-number only
        with RTDCWriter(tmp_path / "theirs.rtdc", mode="reset") as peer:
            peer.store_feature(feat, data)
    with dcwrite.HDF5Writer(
        tmp_path / "ours.rtdc", scalar_attributes=True, stream=stream
    ) as writer:
        for start in range(0, len(data), 100):
            writer.store_feature_chunk(feat, data[start : start + 100])
    with (
        h5py.File(tmp_path / "ours.rtdc", "r") as ours,
        h5py.File(tmp_path / "theirs.rtdc", "r") as theirs,
    ):
        found, expected = ours["events"][feat].attrs, theirs["events"][feat].attrs
        assert set(found) == set(expected) == {"min", "max", "mean"}
        for key in expected:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-6)
            assert found[key].dtype == expected[key].dtype, key
