"""join and split with dclab as judge: of real and simulated recordings, against dclab's own."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.simulate import SimulatedRecording, SimulationSettings

pytestmark = pytest.mark.peer
dclab = pytest.importorskip("dclab", reason="needs dclab (extra `peer`)")

#: Real recordings with events whose features have one length.
REAL = [
    pytest.param(name, marks=pytest.mark.shared_data)
    for name in (
        "fmt-hdf5_cytoshot_full-features_2023",
        "fmt-hdf5_shapein_raw-with-variable-length-logs",
        "fmt-hdf5_fl_wide-channel_2023",
        "fmt-hdf5_fl_2018",
    )
]


@pytest.fixture(params=["simulated", *REAL])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a recording in the folder of the test."""
    path = tmp_path / "in.rtdc"
    if request.param == "simulated":
        shutil.copyfile(request.getfixturevalue("simulated_path"), path)
    else:
        fetch: Callable[[str], Path] = request.getfixturevalue("recording_path")
        fetch(request.param).rename(path)
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """dclab warns about how its own files are made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check(path: Path) -> set[str]:
    """Violations and alerts."""
    from dclab.rtdc_dataset.check import check_dataset

    with quiet():
        violations, alerts, _ = check_dataset(path)
    return {*violations, *alerts}


def features(path: Path) -> dict[str, Any]:
    """Every feature as dclab reads it, own ones and those of basins."""
    found: dict[str, Any] = {}
    with quiet(), dclab.new_dataset(path) as ds:
        for name in {*ds.features_innate, *ds.features_basin}:
            if name.startswith("basinmap"):
                continue
            if name == "trace":
                found.update({f"trace/{key}": ds["trace"][key][:] for key in ds["trace"]})
            elif name == "contour":
                found[name] = [ds[name][number] for number in range(len(ds))]
            else:
                found[name] = ds[name][:]
    return found


def assert_same_features(path: Path, expected: Path, *, without: tuple[str, ...] = ()) -> None:
    got, wanted = features(path), features(expected)
    assert sorted(got) == sorted(set(wanted) - set(without))
    for name, values in got.items():
        if name == "contour":
            assert len(values) == len(wanted[name])
            for one, other in zip(values, wanted[name], strict=True):
                np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_array_equal(values, wanted[name], err_msg=name)


def later(source: Path, name: str, time: str) -> Path:
    """A copy that was measured at another time."""
    path = source.with_name(name)
    shutil.copyfile(source, path)
    with dcwrite.HDF5Writer(path) as writer:
        writer.store_metadata({"experiment:time": time})
        if "imaging:frame rate" not in writer.h5.attrs:
            writer.store_metadata({"imaging:frame rate": 2000.0})
    return path


def third_of(source: Path) -> int:
    """Events per part, so that there are three, which begin inside of chunks."""
    with dcwrite.Recording(source) as recording:
        return len(recording) // 3 + 1


@pytest.mark.parametrize(
    ("link", "virtual"),
    [(False, False), (True, False), (True, True)],
    ids=["with images", "linked", "linked, virtual"],
)
def test_parts_that_are_joined_are_the_recording(source: Path, link: bool, virtual: bool) -> None:
    before = check(source)
    n_events = third_of(source)
    parts = dcwrite.split(source, source.parent / "parts", events=n_events, link=link).parts
    for part in parts:
        assert check(part.path) <= before
        assert dcwrite.verify(part.path, basin_roots=[source.parent]).findings == []
    joined = source.with_name("joined.rtdc")
    summary = dcwrite.join(
        [part.path for part in reversed(parts)],
        joined,
        virtual=virtual,
        basin_roots=[source.parent],
    )
    assert not summary.omitted
    assert check(joined) <= before
    assert dcwrite.verify(joined).findings == []
    assert_same_features(joined, source)
    with dcwrite.Recording(joined) as ours, dcwrite.Recording(source) as theirs:
        assert set(theirs.features) == set(ours.features)
        for name in theirs.features:
            if name not in {"trace", "contour"}:
                np.testing.assert_array_equal(ours[name][:], theirs[name][:])


def test_joined_as_dclab_joins(source: Path) -> None:
    from dclab.cli import join as dclab_join

    inputs = [later(source, f"{n}.rtdc", time) for n, time in
              (("b", "23:59:59.25"), ("c", "23:59:00"), ("a", "23:58:00"))]  # fmt: skip
    ours, theirs = source.with_name("ours.rtdc"), source.with_name("theirs.rtdc")
    with quiet():
        dclab_join(path_out=theirs, paths_in=inputs)
    summary = dcwrite.join(inputs, ours)
    assert [item.path.name for item in summary.inputs] == ["a.rtdc", "c.rtdc", "b.rtdc"]
    contour = ("contour",) if "contour" in features(ours) else ()  # dclab leaves them out
    assert_same_features(theirs, ours, without=contour)
    assert check(ours) <= check(inputs[0])
    virtual = source.with_name("virtual.rtdc")
    dcwrite.join(inputs, virtual, virtual=True)
    assert_same_features(virtual, ours)
    assert check(virtual) <= check(inputs[0])


def test_parts_of_one_are_joined_by_the_other(source: Path) -> None:
    from dclab.cli import join as dclab_join
    from dclab.cli import split as dclab_split

    source = later(source, "it.rtdc", "12:00:00")  # with a frame rate, or dclab-join fails
    folders = source.with_name("ours"), source.with_name("theirs")
    for folder in folders:
        folder.mkdir()
    n_events = third_of(source)
    ours = [part.path for part in dcwrite.split(source, folders[0], events=n_events).parts]
    with quiet():
        theirs = dclab_split(
            path_in=source, path_out=folders[1], split_events=n_events, ret_out_paths=True,
            skip_initial_empty_image=False, skip_final_empty_image=False,
        )  # fmt: skip
    assert [path.name for path in ours] == [path.name for path in theirs]
    joined = source.with_name("joined.rtdc")
    dcwrite.join(theirs, joined)
    assert_same_features(joined, source)
    with quiet():
        dclab_join(path_out=joined, paths_in=ours)
    got, wanted = features(joined), features(source)
    for name in set(wanted) - {"contour", "index_online"}:  # left out; counted on by dclab
        np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


def chopped(folder: Path, number: int) -> tuple[Path, Path]:
    """A simulated recording with whole images, and the same with chopped ones."""
    from dclab.rtdc_dataset.feat_basin.chop_images import write_chopped_images

    settings = SimulationSettings(
        frames=20, image_shape=(60, 120), events_per_frame=2, seed=number
    )
    simulated = SimulatedRecording(settings)
    whole, cut = folder / f"whole{number}.rtdc", folder / f"chopped{number}.rtdc"
    for path, left_out in ((whole, ()), (cut, ("image",))):
        with dcwrite.HDF5Writer(path, mode="x", event_count=True) as writer:
            for frame in range(20):
                for name, data in (simulated.frame_events(frame) or {}).items():
                    if name not in left_out:
                        writer.store_feature_chunk(name, data)
            writer.store_metadata(
                {
                    **simulated.metadata(),
                    "experiment:time": f"1{number}:00:00",
                    "setup:identifier": "a machine",
                }
            )
    with quiet(), dclab.new_dataset(whole) as ds, h5py.File(cut, "a") as h5:
        write_chopped_images(ds, "image", h5)
    return whole, cut


def test_chopped_images(tmp_path: Path) -> None:
    cuts = [chopped(tmp_path, number)[1] for number in (0, 1)]
    joined = tmp_path / "joined.rtdc"
    dcwrite.join(cuts, joined)
    images = [features(cut)["image"] for cut in cuts]
    np.testing.assert_array_equal(features(joined)["image"], np.concatenate(images))
    assert check(joined) <= check(cuts[0])
    assert dcwrite.verify(joined).findings == []
    parts = dcwrite.split(cuts[0], events=9).parts
    for part in parts:
        rows = slice(part.first_event, part.first_event + part.n_events)
        np.testing.assert_array_equal(features(part.path)["image"], images[0][rows])
    again = tmp_path / "again.rtdc"
    dcwrite.join([part.path for part in parts], again)
    assert_same_features(again, cuts[0])


def test_chopped_images_of_different_origins_are_not_dropped_silently(tmp_path: Path) -> None:
    parts = [
        dcwrite.split(chopped(tmp_path, number)[1], events=9).parts[0].path for number in (0, 1)
    ]
    with pytest.raises(dcwrite.MismatchError) as caught:
        dcwrite.join(parts, tmp_path / "joined.rtdc")
    assert len(caught.value.problems) == 2
    assert all("image" in problem for problem in caught.value.problems)
    summary = dcwrite.join(parts, tmp_path / "joined.rtdc", drop_basins=True)
    assert len(summary.omitted) == 2


def test_an_input_that_is_missing_later_is_noticed(source: Path) -> None:
    """HDF5 gives zeros without an error; `Recording` does not."""
    inputs = [later(source, f"{name}.rtdc", f"23:0{name}:00") for name in "12"]
    joined = source.with_name("joined.rtdc")
    summary = dcwrite.join(inputs, joined, virtual=True)
    assert summary.path_virtual is not None
    inputs[1].rename(source.with_name("elsewhere.rtdc"))
    with (
        dcwrite.Recording(joined) as recording,
        pytest.raises(dcwrite.DamagedFileError, match=r"2\.rtdc', which is not there"),
    ):
        _ = recording["image"]
    assert dcwrite.verify(joined).exit_code == 1
