"""copy and basins on real recordings: for dclab and dcnum, a copy is what was asked for."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.tools.compare import compare
from tests.peer.judge import PEER_REASON, basin_dicts

dclab = pytest.importorskip("dclab", reason=PEER_REASON)
dcnum_read = pytest.importorskip("dcnum.read", reason=PEER_REASON)

from dclab.rtdc_dataset.check import check_dataset  # noqa: E402 - after the check above

from tests.peer import test_dclab_writes as by_dclab  # noqa: E402 - the same

data_path = by_dclab.data_path

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:Storing perishable basin:UserWarning"),
]


@pytest.fixture
def source(source: Path, tmp_path: Path) -> Path:
    """A recording in the folder of the test."""
    path = tmp_path / source.name
    if path != source:
        path.write_bytes(source.read_bytes())
    return path


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a recording in dclab, which warns about how its own old files are made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with dclab.new_dataset(path) as ds:
            yield ds


def problems(path: Path) -> set[str]:
    """Violations and alerts of dclab's check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            violations, alerts, _ = check_dataset(path)
        except ValueError as exc:  # dclab 0.73 cannot check fluorescence without events
            return {str(exc)}
    return {*violations, *alerts}


def feature_names(ds: Any) -> list[str]:
    names = {*ds.features_innate, *ds.features_basin}
    return sorted(name for name in names if not name.startswith("basinmap"))


def assert_same_events(ds: Any, origin: Any, rows: Any, names: Any) -> None:
    for name in names:
        if name == "index":
            assert np.array_equal(ds[name][:], np.arange(1, len(rows) + 1))
        elif name == "trace":
            assert sorted(ds[name]) == sorted(origin[name])
            for key in origin[name]:
                assert np.array_equal(ds[name][key][:], origin[name][key][:][rows]), key
        elif name == "contour":
            assert len(ds[name]) == len(rows)
            for number, row in enumerate(rows):
                assert np.array_equal(ds[name][number], origin[name][int(row)]), number
        else:
            assert np.array_equal(ds[name][:], np.asarray(origin[name][:])[rows]), name


def is_inconsistent(source: Path) -> bool:
    """Whether it is the recording with twice as many masks as events."""
    return source.name == "example_video.rtdc"


def options_for(source: Path) -> dict[str, Any]:
    return {"exclude": "mask"} if is_inconsistent(source) else {}


def test_a_copy_of_everything(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.rtdc"
    dcwrite.copy_recording(source, out, **options_for(source))
    differences = [line for line in compare(source, out) if "'dcwrite-copy'" not in line]
    if is_inconsistent(source):
        assert differences == ["feature 'mask': only in the first"], "and no basin for it"
    else:
        assert differences == []
    assert problems(out) <= problems(source)
    if not is_inconsistent(source):
        assert dcwrite.verify(out).findings == []
    with opened(source) as expected, opened(out) as ds:
        names = set(feature_names(expected)) - set(options_for(source).values())
        assert_same_events(ds, expected, np.arange(len(expected)), names)
        assert ds.get_measurement_identifier() == expected.get_measurement_identifier()


def test_groups_that_nobody_knows(source: Path, tmp_path: Path) -> None:
    """They are kept by copy and split, and dclab's check finds no more than in the source."""
    with h5py.File(source, "a") as h5:
        h5["calibration/curve"] = np.arange(10.0)
        h5["calibration"].attrs["by"] = "a machine"
        h5["single"] = 7
        n_events = h5.attrs["experiment:event count"]
    out = tmp_path / "out.rtdc"
    dcwrite.copy_recording(source, out, **options_for(source))
    paths = [out]
    if n_events and not is_inconsistent(source):
        paths += [part.path for part in dcwrite.split(source, tmp_path / "parts", events=6).parts]
    for path in paths:
        with h5py.File(path) as h5:
            assert np.array_equal(h5["calibration/curve"], np.arange(10.0))
            assert h5["calibration"].attrs["by"] == "a machine"
            assert h5["single"][()] == 7
        assert problems(path) <= problems(source)


@pytest.mark.parametrize(
    ("selection", "basins"),
    [
        ({"events": "1::2"}, "keep"),
        ({"events": "::-1"}, "drain"),
        ({"index": [3, 1, 1]}, "keep"),
        ({"where": "frame % 2 < 1"}, "drop"),
    ],
    ids=["slice", "backwards", "repeats", "condition"],
)
def test_some_events(source: Path, tmp_path: Path, selection: dict[str, Any], basins: Any) -> None:
    out = tmp_path / "out.rtdc"
    with dcwrite.Recording(source) as recording:
        n_events = len(recording)
        rows = np.arange(n_events)
        if "where" in selection:
            rows = np.flatnonzero(recording["frame"][:] % 2 < 1)
        elif "index" in selection:
            rows = np.array(selection["index"])
        elif selection["events"] == "1::2":
            rows = rows[1::2]
        else:
            rows = rows[::-1]
    options = {**options_for(source), **selection, "basins": basins}
    if not n_events and "index" in selection:
        with pytest.raises(dcwrite.DataError, match="the recording has 0 events"):
            dcwrite.copy_recording(source, out, **options)
        return
    summary = dcwrite.copy_recording(source, out, **options)
    assert summary.n_events == len(rows)
    assert problems(out) <= problems(source)
    assert dcwrite.verify(out).findings == []
    with opened(source) as expected, opened(out) as ds:
        assert len(ds) == len(rows)
        assert_same_events(ds, expected, rows, set(feature_names(expected)) - {"mask"})
        if not is_inconsistent(source):
            assert_same_events(ds, expected, rows, {"mask"} & set(feature_names(expected)))
        assert dict(ds.tables) == {} or set(ds.tables) == set(expected.tables)
        assert set(expected.logs) <= set(ds.logs)


@pytest.mark.parametrize(("events", "elsewhere"), [(None, True), ("::-2", True)])
def test_a_condensed_file_has_the_images_of_its_origin(
    source: Path, tmp_path: Path, events: str | None, elsewhere: bool
) -> None:
    """Through the kept basin: for dclab, for dcnum, and here."""
    folder = tmp_path / "condensed" if elsewhere else tmp_path
    folder.mkdir(exist_ok=True)
    # of the same name where it can be: dclab must not take the file for its own basin
    out = folder / (source.name if elsewhere else "condensed.rtdc")
    dcwrite.copy_recording(source, out, features="scalar", events=events)
    with opened(source) as expected, opened(out) as ds:
        if not len(expected):
            return
        rows = np.arange(len(expected))[:: -2 if events else 1]
        images = expected["image"][:][rows]
        assert "image" not in ds.features_innate
        assert np.array_equal(ds["image"][:], images)
        assert np.array_equal(ds["image"][1], images[1])
        scalars = set(expected.features_scalar) & set(expected.features_innate)
        assert_same_events(ds, expected, rows, scalars)
        assert ("trace" in ds) == ("trace" in expected and events is None)
    with dcwrite.Recording(out, basin_roots=[tmp_path]) as recording:
        assert np.array_equal(recording["image"][:], images)
    with dcnum_read.HDF5Data(out) as hd:
        assert np.array_equal(np.asarray(hd["image"][:]), images)
        assert len(hd) == len(rows)


@pytest.mark.shared_data
def test_moved_with_its_origin(recording_path: Callable[[str], Path], tmp_path: Path) -> None:
    source = recording_path("fmt-hdf5_cytoshot_full-features_2023")
    before = tmp_path / "before"
    before.mkdir()
    source = source.rename(before / "measured.rtdc")
    dcwrite.copy_recording(source, before / "small.rtdc", features="deform", where="deform > 0.2")
    before.rename(tmp_path / "after")
    with (
        opened(tmp_path / "after" / "measured.rtdc") as expected,
        opened(tmp_path / "after" / "small.rtdc") as ds,
    ):
        rows = np.flatnonzero(expected["deform"][:] > 0.2)
        assert 0 < len(rows) < len(expected)
        assert np.array_equal(ds["image"][:], expected["image"][:][rows])


@pytest.mark.shared_data
def test_the_selection_of_dclab(recording_path: Callable[[str], Path], tmp_path: Path) -> None:
    """The same events and features as its own export of the same filter."""
    source = recording_path("fmt-hdf5_fl_wide-channel_2023")
    ours, theirs = tmp_path / "ours.rtdc", tmp_path / "theirs.rtdc"
    with opened(source) as ds:
        limit = float(np.median(ds["area_um"][:]))
        ds.filter.manual[:] = (ds["area_um"][:] > limit) & (ds["deform"][:] < 1)
        ds.apply_filter()
        ds.export.hdf5(
            theirs, features=ds.features_innate, filtered=True, basins=True, allow_contour=True
        )
    dcwrite.copy_recording(source, ours, where=f"area_um > {limit!r} & deform < 1")
    with opened(theirs) as expected, opened(ours) as ds:
        assert feature_names(ds) == feature_names(expected)
        assert_same_events(ds, expected, np.arange(len(expected)), feature_names(expected))
        begins = [d.get_measurement_identifier().partition("_")[0] for d in (ds, expected)]
        assert begins[0] == begins[1]


# -- basins that dclab has written ----------------------------------------------------------


@pytest.mark.parametrize("store", by_dclab.BASINS)
@pytest.mark.parametrize("basins", ["keep", "drain"])
def test_basins_of_a_selection(
    tmp_path: Path, data_path: Path, store: Callable[[Any, Path], None], basins: Any
) -> None:
    source, out = tmp_path / "source.rtdc", tmp_path / "out.rtdc"
    rows = np.array([100, 7, 7, 119, 0])
    with by_dclab.new_file(source) as writer:
        writer.store_feature("deform", by_dclab.rows()["deform"])
        store(writer, data_path)
    summary = dcwrite.copy_recording(
        source, out, index=rows, basins=basins, basin_roots=[data_path.parent]
    )
    gc.collect()  # dclab's chopper keeps its file open
    new = problems(out) - problems(source)
    # the traces come with a drained basin, which is not where the metadata come from
    assert not {text for text in new if "Missing key [fluorescence]" not in text}
    is_chopped = store is by_dclab.chopped_basin
    with opened(source) as expected, opened(out) as ds:
        names = set(feature_names(expected))
        if basins == "drain" and is_chopped:
            assert "image are not in the copy" in summary.notes[0]
            names.remove("image")
        elif basins == "keep" and "trace" in expected.features_basin:
            names.remove("trace")  # dclab cannot read it through a mapping
        if "trace" in names and store is by_dclab.mapped_file_basin:
            names.remove("trace")
            with opened(data_path) as data:
                mapped = data["trace"]["fl1_raw"][:][::-1][rows]
            assert np.array_equal(ds["trace"]["fl1_raw"][:], mapped)
        if basins == "keep" and "index" in names:  # of the basin's file
            names.remove("index")
            assert np.array_equal(ds["index"][:], expected["index"][:][rows])
        assert_same_events(ds, expected, rows, names)
    if basins == "drain":
        assert basin_dicts(out) == {}


@pytest.mark.parametrize("basin_format", ["http", "s3", "dcor"])
@pytest.mark.parametrize("perishable", [False, True])
def test_remote_basins_of_a_selection(tmp_path: Path, basin_format: str, perishable: bool) -> None:
    """No URL is opened here."""
    source, out = tmp_path / "source.rtdc", tmp_path / "out.rtdc"
    n_events = by_dclab.N_EVENTS
    with by_dclab.new_file(source) as writer:
        writer.store_feature("deform", by_dclab.rows()["deform"])
        for number, mapping in enumerate((None, np.arange(n_events) // 2)):
            writer.store_basin(
                basin_name=f"web{number}",
                basin_type="remote",
                basin_format=basin_format,
                basin_locs=["https://example.org/a.rtdc"],
                basin_feats=["image"],
                basin_map=mapping,
                perishable=perishable,
                verify=False,
            )
    rows = [9, 5]
    dcwrite.copy_recording(source, out, index=rows)
    before = {d["name"]: d for d in basin_dicts(source).values()}
    after = {d["name"]: d for d in basin_dicts(out).values()}
    assert set(after) == {"web0", "web1", "source.rtdc"}
    with h5py.File(out) as h5:
        for name, expected in (("web0", rows), ("web1", [4, 2])):
            text = after[name]
            assert h5["events"][text["mapping"]][:].tolist() == expected
            assert {**text, "mapping": 0} == {**before[name], "mapping": 0}


# -- files of basins ------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", [None, [3, 0, 3]])
def test_a_file_of_basins(source: Path, tmp_path: Path, mapping: list[int] | None) -> None:
    out = tmp_path / "linked.rtdc"
    if is_inconsistent(source):
        with pytest.raises(dcwrite.RecordingError, match="20 events: mask"):
            dcwrite.link(out, [source])
        return
    with dcwrite.Recording(source) as recording:
        n_events = len(recording)
    if mapping is not None and not n_events:
        return
    dcwrite.link(out, [source], mapping=mapping)
    with opened(source) as expected, opened(out) as ds:
        rows = np.arange(n_events) if mapping is None else np.array(mapping)
        names = set(feature_names(expected)) - ({"trace", "index"} if mapping else set())
        assert_same_events(ds, expected, rows, names)
    if "image" in names:
        with dcnum_read.HDF5Data(out) as hd, h5py.File(source) as h5:
            if n_events:
                images = h5["events/image"][:][rows]
                assert np.array_equal(np.asarray(hd["image"][:]), images)


@pytest.mark.parametrize("cwd_has_one", [False, True])
def test_another_file_of_the_same_name(
    simulated_path: Path, tmp_path: Path, cwd_has_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dclab looks in the working directory, and beside the file, before it looks further."""
    for name in ("data", "links", "elsewhere"):
        (tmp_path / name).mkdir()
    source = tmp_path / "data" / "a.rtdc"
    source.write_bytes(simulated_path.read_bytes())
    if cwd_has_one:
        (tmp_path / "elsewhere" / "a.rtdc").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "elsewhere")
    dcwrite.link(tmp_path / "links" / "a.rtdc", [source])
    with opened(source) as expected, opened(os.path.relpath(tmp_path / "links" / "a.rtdc")) as ds:
        assert np.array_equal(ds["image"][:], expected["image"][:])
