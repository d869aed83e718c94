"""compress beside dclab-compress: real recordings, dclab's check, everything compared."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dcwrite import Compression, compress, verify
from dcwrite.tools.compare import compare
from tests.peer.conftest import REAL
from tests.peer.judge import PEER_REASON
from tests.store.everything import assert_survived

dclab = pytest.importorskip("dclab", reason=PEER_REASON)
from dclab.cli import compress as dclab_compress  # noqa: E402
from dclab.rtdc_dataset import check  # noqa: E402

pytestmark = pytest.mark.peer

JOB = ("dcwrite-compress",)


def complaints(path: Path) -> set[str]:
    """Violations and alerts of dclab's check."""
    logging.getLogger("dclab").setLevel(logging.CRITICAL)
    try:
        violations, alerts, _ = check.check_dataset(path)
    except ValueError as exc:  # dclab 0.73 does not get through one without events
        return {str(exc)}
    return {*violations, *alerts}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("compression", "force"), [("archive", True), (Compression(9), False)], ids=["force", "9"]
)
def test_recordings(
    source: Path, compression: Compression | str, force: bool, tmp_path: Path
) -> None:
    out = tmp_path / "out.rtdc"
    summary = compress(source, out, compression=compression, force=force)
    if summary.action == "copied":
        assert out.read_bytes() == source.read_bytes()
        return
    assert_survived(source, out, new_logs=JOB)
    differences = [line for line in compare(source, out) if "log 'dcwrite-compress'" not in line]
    assert not differences
    assert complaints(out) <= complaints(source)
    if verify(source).exit_code == 0:
        assert verify(out).exit_code == 0
    with dclab.new_dataset(source) as before, dclab.new_dataset(out) as after:
        assert len(before) == len(after)
        assert before.features_innate == after.features_innate
        for feat in set(before.features_innate) & set(before.features_scalar):
            np.testing.assert_array_equal(before[feat], after[feat], err_msg=feat)
        for feat in ("image", "mask"):
            if feat in before:
                np.testing.assert_array_equal(before[feat][:], after[feat][:], err_msg=feat)
        if "trace" in before:
            for name in before["trace"]:
                np.testing.assert_array_equal(before["trace"][name][:], after["trace"][name][:])


@pytest.mark.filterwarnings("ignore")
def test_everything_that_dclab_calls_compressed_is(source: Path, tmp_path: Path) -> None:
    """Logs, tables and contours included."""
    out = tmp_path / "out.rtdc"
    compress(source, out, force=True)
    with check.IntegrityChecker(out) as checker:
        (cue,) = checker.check_compression()
    with h5py.File(out) as h5:
        contours = h5.get("events/contour", {})
        empty = sum(not dset.size for dset in contours.values())
    assert cue.data["uncompressed"] == empty


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    # dclab 0.73 cannot compress the recording without events
    [
        pytest.param(name, marks=pytest.mark.shared_data)
        for name in REAL
        if name != "fmt-hdf5_shapein_empty"
    ],
)
def test_what_dclab_keeps_we_keep(
    name: str, recording_path: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each object that is in dclab's output is in ours, with its values."""
    source, ours, theirs = recording_path(name), tmp_path / "ours.rtdc", tmp_path / "theirs.rtdc"
    compress(source, ours, force=True)
    dclab_compress(path_in=source, path_out=theirs)
    with h5py.File(ours) as a, h5py.File(theirs) as b:
        names: list[str] = []
        b.visititems(lambda key, item: names.append(key) if hasattr(item, "shape") else None)
        for key in names:
            if key.startswith("logs/dclab-compress"):
                continue
            assert key in a, key
            if a[key].dtype.kind not in "SO":
                np.testing.assert_array_equal(a[key], b[key], err_msg=key)
            elif key.startswith("logs/"):
                assert [line.rstrip(b"\0") for line in a[key]] == list(b[key]), key
        assert set(b.attrs) <= set(a.attrs)


@pytest.mark.filterwarnings("ignore")
def test_internal_and_chopped_basins(simulated_path: Path, tmp_path: Path) -> None:
    """What dclab cropped can be read from our output, too."""
    with h5py.File(tmp_path / "wide.rtdc", "w") as h5, h5py.File(simulated_path) as source:
        for key in source:
            source.copy(key, h5)
        h5.attrs.update(source.attrs)
        n_events = len(h5["events/deform"])
        for feat in ("size_x", "size_y"):
            if feat not in h5["events"]:
                h5[f"events/{feat}"] = np.full(n_events, 8.0)
    chopped, out = tmp_path / "chopped.rtdc", tmp_path / "out.rtdc"
    dclab_compress(path_in=tmp_path / "wide.rtdc", path_out=chopped, crop_event_images=True)
    compress(chopped, out, compression=Compression(8))
    assert_survived(chopped, out, new_logs=JOB)
    with dclab.new_dataset(chopped) as before, dclab.new_dataset(out) as after:
        for number in (0, n_events // 2, n_events - 1):
            np.testing.assert_array_equal(before["image"][number], after["image"][number])
