"""HDF5Writer: what was stored can be read, whatever the filters, batches and modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from dcwrite import (
    ClosedError,
    DamagedFileError,
    DataError,
    EventError,
    HDF5Writer,
    RecordingError,
    StorageError,
    UsageError,
)
from dcwrite.store.background import BackgroundBasin

from .files import contents, image

FILTERS: dict[str, dict[str, Any]] = {
    "default": {},
    "gzip": {"compression": "gzip", "compression_opts": 3},
    "gzip-shuffle": {"compression": "gzip", "shuffle": True, "fletcher32": False},
    "lzf": {"compression": "lzf"},
    "none": {"compression": None, "fletcher32": False},
    "checksum-only": {"compression": None},
    "zstd-plugin": dict(hdf5plugin.Zstd(clevel=3)),
    "zstd-shuffle": {"shuffle": True},
    "blosc2": dict(hdf5plugin.Blosc2()),
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
    "chunks": {"chunks": True},
}


#: ways of writing: rows wait for their chunk, are visible at once, are taken over from a stream
WAYS = ["hidden", "visible", "stream"]


def opened(path: Path, way: str, mode: str = "a", **options: Any) -> HDF5Writer:
    """A writer that writes in one of the ways."""
    writer = HDF5Writer(path, mode, **{"threads": 2, "stream": way == "stream", **options})
    if way == "visible":
        assert writer.h5.id.valid
    return writer


def stored(path: Path, batch: int, n_events: int, way: str, **options: Any) -> dict[str, Any]:
    """Store events in batches; return what plain h5py reads."""
    with opened(path, way, "w", **options) as writer:
        for start in range(0, n_events, batch):
            n = min(batch, n_events - start)
            writer.store_feature_chunk("deform", np.arange(start, start + n) / 8)
            writer.store_feature_chunk("image", image(n, start))
    return contents(path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ds_kwds", FILTERS.values(), ids=FILTERS.keys())
def test_filters_and_batches_change_nothing(
    ds_kwds: dict[str, Any], way: str, tmp_path: Path
) -> None:
    before = dict(ds_kwds)
    for batch in (1, 13, 500) if ds_kwds == {} else (13, 500):
        n_events = 1500 if ds_kwds == {} and batch > 1 else 300
        found = stored(tmp_path / "a", batch, n_events, way, ds_kwds=ds_kwds)
        np.testing.assert_array_equal(found["events/deform"], np.arange(n_events) / 8)
        np.testing.assert_array_equal(found["events/image"], image(n_events))
    assert ds_kwds == before, "fault 18: the caller's dict was changed"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_are_the_same_bytes_whatever_the_batches(
    threads: int, way: str, tmp_path: Path
) -> None:
    chunks: list[list[bytes]] = []
    for batch in (1, 13, 500):
        stored(tmp_path / "a", batch, 1200, way, threads=threads)
        with h5py.File(tmp_path / "a", "r") as h5:
            dset = h5["events/deform"]
            chunks.append([dset.id.read_direct_chunk((row,))[1] for row in (0, 1000)])
    assert chunks[0] == chunks[1] == chunks[2]


@pytest.mark.parametrize("way", ["hidden", "visible"])
def test_arrays_may_be_changed_after_they_were_stored(way: str, tmp_path: Path) -> None:
    batch = image(2500)
    with opened(tmp_path / "a", way) as writer:
        for _ in range(2):
            writer.store_feature_chunk("image", batch)
            batch += 1
    expected = np.concatenate([image(2500), image(2500) + np.uint8(1)])
    np.testing.assert_array_equal(contents(tmp_path / "a")["events/image"], expected)


@pytest.mark.parametrize("n_events", [7, 1007, 2000])
def test_looking_late_shows_all_that_was_stored_before(n_events: int, tmp_path: Path) -> None:
    with opened(tmp_path / "a", "hidden") as writer:
        writer.store_feature_chunk("deform", np.arange(n_events))
        np.testing.assert_array_equal(writer.h5["events/deform"][:], np.arange(n_events))
        writer.h5["events/deform"][3] = -1
        writer.store_feature_chunk("deform", np.arange(1000))
        found = writer.events["deform"][:]
    expected = np.concatenate([np.arange(n_events), np.arange(1000)])
    expected[3] = -1
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(contents(tmp_path / "a")["events/deform"], expected)


def test_what_was_stored_is_visible_at_once(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", threads=1) as writer:
        for number in range(7):
            writer.store_feature_chunk("image", image(13, 13 * number))
            writer.store_feature_chunk("deform", np.arange(13) + 13 * number)
            assert writer.h5["events/image"].shape == (13 * (number + 1), 4, 5)
            np.testing.assert_array_equal(writer.events["image"][:], image(13 * (number + 1)))
            assert writer.h5["events/deform"][-1] == 13 * number + 12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [3, 999, 1000, 1007])
def test_reopening_goes_on_in_the_last_chunk(first: int, way: str, tmp_path: Path) -> None:
    for start, stop in ((0, first), (first, first + 4), (first + 4, first + 1100)):
        with opened(tmp_path / "a", way) as writer:
            writer.store_feature_chunk("deform", np.arange(start, stop))
            writer.store_feature_chunk("image", image(stop - start, start))
    found = contents(tmp_path / "a")
    np.testing.assert_array_equal(found["events/deform"], np.arange(first + 1100))
    np.testing.assert_array_equal(found["events/image"], image(first + 1100))


def test_rows_changed_through_h5_stay_changed(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", threads=1, scalar_attributes=True) as writer:
        writer.store_feature_chunk("deform", np.arange(5.0))
        writer.h5["events/deform"][2] = 99
        writer.store_feature_chunk("deform", np.arange(1000.0))  # completes the chunk
        writer.h5["events/deform"][1003] = 77
    with h5py.File(tmp_path / "a", "r") as h5:
        assert h5["events/deform"][2] == 99
        assert h5["events/deform"][1003] == 77
        assert h5["events/deform"].attrs["max"] == 999


def test_rows_taken_away_through_h5_stay_away(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", threads=1, scalar_attributes=True) as writer:
        writer.store_feature_chunk("deform", np.arange(8.0))
        writer.h5["events/deform"].resize(3, axis=0)
        writer.store_feature_chunk("deform", [10.0, 11.0])
        writer.store_feature_chunk("area_um", np.arange(8.0))
        writer.h5["events/area_um"].resize(3, axis=0)
    with h5py.File(tmp_path / "a", "r") as h5:
        assert h5["events/deform"][:].tolist() == [0, 1, 2, 10, 11]
        assert h5["events/area_um"].attrs["max"] == 2


def test_a_feature_deleted_through_h5_can_be_stored_again(tmp_path: Path) -> None:
    contour = [np.full((3, 2), 1)]
    with HDF5Writer(tmp_path / "a", threads=1, scalar_attributes=True) as writer:
        for value in (np.arange(5), np.array([0.5])):
            writer.store_feature_chunk("deform", value)
            writer.store_feature_chunk("contour", contour * len(value))
            if len(value) > 1:
                del writer.h5["events/deform"], writer.h5["events/contour"]
        writer.store_feature_chunk("tilt", [1.0])
        del writer.h5["events/tilt"]
    found = contents(tmp_path / "a")
    assert sorted(found) == ["events/contour/0", "events/deform"]
    assert found["events/deform"].tolist() == [0.5]


def test_a_foreign_file_stays_open(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as h5:
        for start in (0, 5):
            with HDF5Writer(h5, threads=1) as writer:
                writer.store_feature_chunk("deform", np.arange(start, start + 5))
            assert h5.id.valid
            assert h5["events/deform"].shape == (start + 5,)
            with pytest.raises(ClosedError):
                writer.store_feature_chunk("deform", [1])
        h5.attrs["setup:identifier"] = "set by the caller"
    assert contents(tmp_path / "a")["events/deform"].tolist() == list(range(10))


def test_a_foreign_file_that_cannot_be_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as h5:
        pass
    with h5py.File(tmp_path / "a", "r") as h5, pytest.raises(UsageError, match="mode 'r'"):
        HDF5Writer(h5)
    with pytest.raises(ClosedError):
        HDF5Writer(h5)
    with pytest.raises(UsageError, match="5"):
        HDF5Writer(5)


def test_a_dataset_that_cannot_grow(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a", "w") as h5:
        h5["events/deform"] = [1.0, 2.0]
    with HDF5Writer(tmp_path / "a") as writer:
        with pytest.raises(EventError, match="cannot grow"):
            writer.store_feature_chunk("deform", [3.0])
        writer.store_feature_chunk("area_um", [3.0])
    found = contents(tmp_path / "a")
    assert (found["events/deform"].tolist(), found["events/area_um"].tolist()) == ([1, 2], [3])


CALLS: dict[str, Any] = {
    "store_feature_chunk": ("deform", [1.0]),
    "require_feature": ("deform", (), np.float64),
    "store_log": ("a", ["b"]),
    "store_table": ("a", {"b": [1]}),
    "store_metadata": ({"setup:medium": "water"},),
    "store_basin": ("a", ["b.rtdc"]),
    "flush": (),
    "truncate": (0,),
}


@pytest.mark.parametrize("method", CALLS)
def test_a_closed_writer_says_so(method: str, tmp_path: Path) -> None:
    writer = HDF5Writer(tmp_path / "a", threads=1)
    writer.close()
    writer.close()
    with pytest.raises(ClosedError, match="closed"):
        getattr(writer, method)(*CALLS[method])
    with h5py.File(tmp_path / "b", "w") as h5:
        foreign = HDF5Writer(h5, threads=1)
    with pytest.raises(ClosedError):  # closed by its owner
        getattr(foreign, method)(*CALLS[method])
    foreign.close()


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("mode", ["w", "a", "x", "r+", "w-"])
def test_fault18_modes(mode: str, kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if mode in {"w", "a", "r+"}:
        with HDF5Writer(path, "x") as writer:
            writer.store_feature_chunk("deform", [1.0])
    with HDF5Writer(kind(path), mode) as writer:
        writer.store_feature_chunk("deform", [2.0])
    expected = [2.0] if mode in {"w", "x", "w-"} else [1.0, 2.0]
    assert contents(path)["events/deform"].tolist() == expected


def test_opening_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not HDF5")
    with pytest.raises(DamagedFileError):
        HDF5Writer(tmp_path / "text")
    assert (tmp_path / "text").read_text() == "not HDF5"
    for path, mode in ((tmp_path, "w"), (tmp_path / "no", "r+"), (tmp_path / "no" / "a", "w")):
        with pytest.raises(StorageError) as caught:
            HDF5Writer(path, mode)
        assert caught.value.errno
    HDF5Writer(tmp_path / "a", "x").close()
    with pytest.raises(StorageError):
        HDF5Writer(tmp_path / "a", "x")
    with pytest.raises(UsageError, match="mode"):
        HDF5Writer(tmp_path / "a", "r")
    with h5py.File(tmp_path / "b", "w") as h5:
        h5["events"] = [1, 2]
    with pytest.raises(RecordingError):
        HDF5Writer(tmp_path / "b")


@pytest.mark.parametrize(
    "ds_kwds", [{"compression": "nonsense"}, {"chunks": (3, 3)}, {"no": 1}], ids=str
)
def test_dataset_arguments_that_do_not_fit(ds_kwds: dict[str, Any], tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", ds_kwds=ds_kwds) as writer:
        with pytest.raises(DataError, match="ds_kwds"):
            writer.store_feature_chunk("deform", [1.0])
        assert list(writer.events) == []


def test_settings_by_name(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", compression="none") as writer:
        writer.store_feature_chunk("deform", [1.0])
        assert writer.h5["events/deform"].compression is None
        assert writer.h5["events/deform"].fletcher32
    with pytest.raises(UsageError, match="both"):
        HDF5Writer(tmp_path / "b", compression="fast", ds_kwds={"compression": "gzip"})
    with pytest.raises(DataError, match="preset"):
        HDF5Writer(tmp_path / "b", compression="best")
    assert not (tmp_path / "b").exists()


def test_event_count_is_set_when_asked_for(tmp_path: Path) -> None:
    for wanted in (True, False):
        with HDF5Writer(tmp_path / "a", "w", event_count=wanted) as writer:
            writer.store_feature_chunk("deform", [1.0, 2.0])
            writer.store_feature_chunk("contour", [np.zeros((3, 2))] * 2)
        with h5py.File(tmp_path / "a", "r") as h5:
            assert h5.attrs.get("experiment:event count") == (2 if wanted else None)


def test_event_count_of_unequal_features_is_refused(tmp_path: Path) -> None:
    writer = HDF5Writer(tmp_path / "a", event_count=True)
    writer.store_feature_chunk("deform", [1.0, 2.0])
    writer.store_feature_chunk("area_um", [1.0])
    with pytest.raises(DataError, match="'deform': 2"):
        writer.close()
    with h5py.File(tmp_path / "a", "r") as h5:
        assert "experiment:event count" not in h5.attrs


def test_an_exception_that_passes_through_stamps_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with HDF5Writer(tmp_path / "a", event_count=True, scalar_attributes=True) as writer:
            writer.store_feature_chunk("deform", [1.0, 2.0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with h5py.File(tmp_path / "a", "r") as h5:
        assert dict(h5.attrs) == {}
        assert dict(h5["events/deform"].attrs) == {}
        assert h5["events/deform"][:].tolist() == [1, 2]


def test_require_feature(tmp_path: Path) -> None:
    with HDF5Writer(tmp_path / "a", threads=1) as writer:
        dset, offset = writer.require_feature("image", item_shape=(4, 5), feat_dtype=np.uint8)
        assert (dset.shape, offset, dset.dtype) == ((0, 4, 5), 0, np.uint8)
        assert dset.attrs["CLASS"] == b"IMAGE"
        writer.store_feature_chunk("image", image(3))
        assert writer.require_feature("image", (4, 5), np.uint8) == (dset, 3)
        with pytest.raises(DataError, match=r"\(4, 6\)"):
            writer.require_feature("image", (4, 6), np.uint8)
        other, _ = writer.require_feature("a", (), float, {"compression": "gzip"}, "basin_events")
        assert (other.name, other.compression) == ("/basin_events/a", "gzip")
        mask, _ = writer.require_feature("mask", (4, 5), bool)
        assert mask.dtype == np.uint8


def test_chunks_by_keyword() -> None:
    assert HDF5Writer.get_best_nd_chunks(item_shape=(80, 320), feat_dtype=np.uint8)[0] == 40
    assert HDF5Writer.get_best_nd_chunks((10, 10)) == (1000, 10, 10)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("shape", [(3, 5), (4, 8), (1, 1)])
def test_backgrounds_that_repeat_are_told_from_others(dtype: str, shape: tuple[int, int]) -> None:
    """Against one comparison per row, over calls of all sizes."""
    rng = np.random.default_rng(5)
    numbers = np.repeat(np.arange(60) % 7, rng.integers(1, 90, 60))
    images = rng.integers(0, 9, (7, *shape)).astype(dtype)
    rows = images[numbers]
    expected_new = np.array(
        [ii == 0 or not np.array_equal(rows[ii], rows[ii - 1]) for ii in range(len(rows))]
    )
    basin = BackgroundBasin()
    stored, mappings, start = [], [], 0
    while start < len(rows):
        stop = start + int(rng.integers(0, 200))
        new, mapping = basin.split(rows[start:stop])
        stored.append(new)
        mappings.append(mapping)
        start = stop
    np.testing.assert_array_equal(np.concatenate(stored), rows[expected_new])
    np.testing.assert_array_equal(np.concatenate(mappings), np.cumsum(expected_new) - 1)
    assert basin.n_stored == expected_new.sum()
