"""A source that has been read, so that its chunks are in HDF5's cache, is copied as it is.

HDF5 2.0.0's own H5Ocopy writes outside its memory then; in a process of its own, for it may crash.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import h5py, numpy as np
import dcwrite

folder, way, mode = sys.argv[1:]
images = np.random.default_rng(0).integers(0, 255, (234, 80, 320), dtype=np.uint8)
groups = {"deform": np.arange(234.0), "contour": [np.full((3, 2), i) for i in range(234)]}
with dcwrite.HDF5Writer(f"{folder}/in.rtdc", "x") as writer:
    if way == "features":
        writer.store_feature_chunk("image", images)
        for name, data in groups.items():
            writer.store_feature_chunk(name, data)
        writer.store_feature_chunk("trace", {"fl1_raw": images.reshape(234, -1)[:, :5000]})
    else:
        writer.store_feature_chunk("deform", np.arange(234.0))
        writer.store_basin("bg", mapping=np.arange(234), internal_data={"image": images})
cache = {"rdcc_nbytes": 10 * 1024**2, "libver": "latest"}
with (
    h5py.File(f"{folder}/in.rtdc", mode, **cache) as h5,
    h5py.File(f"{folder}/out.rtdc", "w") as h5_out,
):
    held = h5["events/image" if way == "features" else "basin_events/image"]
    assert np.array_equal(held[:], images)
    if way == "features":
        traces = h5["events/trace/fl1_raw"]
        assert traces[:].any()
        dcwrite.copy_features(h5, h5_out, ["image", "trace", "contour", "deform"])
        assert np.array_equal(h5_out["events/trace/fl1_raw"][:], traces[:])
        assert h5_out["events/contour/233"][0, 0] == 233
    else:
        dcwrite.copy_basins(h5, h5_out)
    assert np.array_equal(h5_out[held.name][:], images)
    assert np.array_equal(held[:], images)

    def make_up(dset):
        plist = dset.id.get_create_plist()
        filters = [plist.get_filter(number)[:3] for number in range(plist.get_nfilters())]
        attributes = {
            name: (repr(value), dset.attrs.get_id(name).dtype)
            for name, value in dset.attrs.items()
        }
        chunks = [dset.id.read_direct_chunk((start, 0, 0)) for start in range(0, 234, 40)]
        return dset.dtype, dset.shape, dset.maxshape, dset.chunks, filters, attributes, chunks

    assert make_up(h5_out[held.name]) == make_up(held)
    assert dict(held.attrs)["CLASS"] == b"IMAGE"
print("same")
"""


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("way", ["features", "basins"])
def test_copy_of_what_is_in_the_cache(tmp_path: Path, way: str, mode: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path, way, mode],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout.strip()) == (0, "same"), result.stderr
