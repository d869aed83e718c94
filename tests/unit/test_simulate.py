"""Simulated recordings: the same everywhere, consistent, as hard to compress as real ones."""

from __future__ import annotations

import math
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from dcwrite.errors import DataError
from dcwrite.simulate import (
    SimulatedRecording,
    SimulationSettings,
    scrambled_frames,
    tile_with_noise,
)

Events = dict[str, NDArray[Any]]

SETTINGS = SimulationSettings(frames=200, events_per_frame=1.0, background_period_frames=60)


@pytest.fixture(scope="module")
def recording() -> SimulatedRecording:
    """Return a recording with some hundred events and four backgrounds."""
    return SimulatedRecording(SETTINGS)


@pytest.fixture(scope="module")
def frames(recording: SimulatedRecording) -> list[Events]:
    """Return the events of all frames that have some."""
    every = (recording.frame_events(index) for index in range(len(recording)))
    return [events for events in every if events is not None]


def joined(frames: list[Events], feature: str) -> NDArray[Any]:
    """Return a feature of all events."""
    return np.concatenate([events[feature] for events in frames])


def assert_same(one: Events | None, other: Events | None) -> None:
    """Fail unless both hold the same features with the same values."""
    if one is None or other is None:
        assert one is other
        return
    assert list(one) == list(other)
    for feature, data in one.items():
        assert data.dtype == other[feature].dtype, feature
        assert np.array_equal(data, other[feature]), feature


def test_same_in_a_spawned_process(recording: SimulatedRecording) -> None:
    """Another process, another order of calls, and a pickle: the same frames."""
    indices = [150, 3, 61, 0, 62, 199, 7]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        theirs = list(pool.map(recording.frame_events, indices))
    for index, events in sorted(zip(indices, theirs, strict=True), key=lambda item: item[0]):
        assert_same(recording.frame_events(index), events)


def test_same_from_several_threads(recording: SimulatedRecording) -> None:
    """Frames of different backgrounds, drawn at once, are those drawn one by one."""
    indices = [(37 * k) % 200 for k in range(60)]
    fresh = SimulatedRecording(SETTINGS)
    with ThreadPoolExecutor(4) as pool:
        for index, events in zip(indices, pool.map(fresh.frame_events, indices), strict=True):
            assert_same(recording.frame_events(index), events)


def test_pickle_holds_the_settings_only(recording: SimulatedRecording) -> None:
    """A worker gets the recipe, not the cells."""
    pickled = pickle.dumps(recording)
    assert len(pickled) < 2000
    assert pickle.loads(pickled).settings == SETTINGS


def test_backgrounds_dropped_from_memory_come_back_the_same() -> None:
    """A frame can be asked for again after many other backgrounds were needed."""
    recording = SimulatedRecording(
        SimulationSettings(frames=100, events_per_frame=3.0, background_period_frames=5)
    )
    first = [recording.frame_events(index) for index in range(100)]
    for index in (0, 99, 4, 50):
        assert_same(first[index], recording.frame_events(index))


def test_seeds_differ(recording: SimulatedRecording) -> None:
    """Another seed is another recording."""
    other = SimulatedRecording(SimulationSettings(frames=200, events_per_frame=1.0, seed=7))
    assert not np.array_equal(recording.nevents(), other.nevents())


def test_nevents_agrees_with_frame_events(recording: SimulatedRecording) -> None:
    """The announced number of events is delivered; frames without events give None."""
    nevents = recording.nevents()
    assert nevents.dtype == np.int32
    assert nevents.shape == (200,)
    assert {0, 1, 2} <= set(nevents.tolist())
    for index, n_events in enumerate(nevents):
        events = recording.frame_events(index)
        if n_events == 0:
            assert events is None
        else:
            assert events is not None
            assert {len(data) for data in events.values()} == {n_events}


def test_shapes_and_dtypes(frames: list[Events]) -> None:
    """48 scalars and three images, with the dtypes that recordings have."""
    for events in frames[:20]:
        n_events = len(events["frame"])
        scalars = [feature for feature, data in events.items() if data.ndim == 1]
        assert len(scalars) == 48
        for feature in scalars:
            dtype = np.uint64 if feature == "frame" else np.float64
            assert events[feature].dtype == dtype, feature
            assert np.isfinite(events[feature]).all(), feature
        for feature, kind in (("image", "uint8"), ("image_bg", "uint8"), ("mask", "bool")):
            assert events[feature].shape == (n_events, 80, 320)
            assert events[feature].dtype == kind
            assert events[feature].flags.c_contiguous
            assert events[feature].flags.writeable
        assert not {"nevents", "index_unmapped"} & set(events)


def test_flags_leave_out_images_and_change_nothing_else(recording: SimulatedRecording) -> None:
    """The scalar-only mode has the scalars of the full one."""
    bare = SimulatedRecording(
        SimulationSettings(
            frames=200,
            events_per_frame=1.0,
            background_period_frames=60,
            with_image=False,
            with_image_bg=False,
            with_mask=False,
        )
    )
    for index in range(0, 200, 9):
        full, scalars = recording.frame_events(index), bare.frame_events(index)
        if full is not None:
            full = {feature: data for feature, data in full.items() if data.ndim == 1}
        assert_same(full, scalars)


def test_events_of_a_frame_share_the_image_but_not_the_mask(frames: list[Events]) -> None:
    """As in real recordings: the whole frame, and the one cell the event is about."""
    several = [events for events in frames if len(events["frame"]) > 1]
    assert several
    for events in several:
        assert (events["image"] == events["image"][0]).all()
        assert (events["image_bg"] == events["image_bg"][0]).all()
        assert events["mask"].sum(axis=0).max() == 1  # cells do not overlap


def test_background_repeats_for_a_period(recording: SimulatedRecording) -> None:
    """One background image per 60 frames, then another one."""
    by_period: dict[int, set[bytes]] = {}
    for index in range(200):
        events = recording.frame_events(index)
        if events is not None:
            by_period.setdefault(index // 60, set()).add(events["image_bg"][0].tobytes())
    assert [len(images) for images in by_period.values()] == [1, 1, 1, 1]
    assert len(set.union(*by_period.values())) == 4


@pytest.mark.parametrize(
    "image_shape",
    [(80, 320), (16, 16), (16, 400), (33, 47), (100, 1010), (96, 64)],
    ids=lambda shape: f"{shape[0]}x{shape[1]}",
)
def test_masks_lie_inside_the_image(image_shape: tuple[int, int]) -> None:
    """A cell is whole: it does not touch the border, whatever the size of the image."""
    recording = SimulatedRecording(
        SimulationSettings(image_shape=image_shape, frames=60, events_per_frame=4.0)
    )
    for index in range(60):
        events = recording.frame_events(index)
        if events is None:
            continue
        mask = events["mask"]
        assert mask.shape[1:] == image_shape
        assert mask.any(axis=(1, 2)).all()
        inner = mask[:, 1:-1, 1:-1]
        assert inner.sum() == mask.sum()


def test_shape_features_agree_with_the_mask(frames: list[Events]) -> None:
    """Area, size, position and deformation are those of the mask that is delivered."""
    px = SETTINGS.pixel_size_um
    for events in frames:
        for k, mask in enumerate(events["mask"]):
            y, x = np.nonzero(mask)
            size_x, size_y = np.ptp(x) + 1, np.ptp(y) + 1
            assert events["size_x"][k] == pytest.approx(size_x * px)
            assert events["size_y"][k] == pytest.approx(size_y * px)
            assert events["aspect"][k] == pytest.approx(size_x / size_y)
            assert events["pos_x"][k] == pytest.approx(x.mean() * px, abs=0.25 * px)
            assert events["pos_y"][k] == pytest.approx(y.mean() * px, abs=0.25 * px)
            # Pick's theorem: a path through the B border pixels of n has the area n - B/2 - 1
            path_pixels = 2 * (len(x) - 1 - events["area_msd"][k])
            padded = np.pad(mask, 1)
            inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
            border_pixels = int((mask & ~inner).sum())
            assert path_pixels == pytest.approx(border_pixels, abs=0.15 * border_pixels)
            assert events["area_um_raw"][k] == pytest.approx(events["area_msd"][k] * px**2)
            # an ellipse of the same area and principal inertia ratio has nearly that deformation
            ratio = events["inert_ratio_prnc"][k]
            a, b = math.sqrt(ratio), 1 / math.sqrt(ratio)
            h = ((a - b) / (a + b)) ** 2
            perimeter = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
            ellipse = 1 - 2 * math.pi / perimeter
            assert events["deform"][k] == pytest.approx(ellipse, abs=0.045)


def test_brightness_agrees_with_the_image(frames: list[Events]) -> None:
    """Brightness is measured in the image that is delivered."""
    for events in frames[:40]:
        for k, mask in enumerate(events["mask"]):
            inside = events["image"][k][mask].astype(float)
            corrected = inside - events["image_bg"][k][mask]
            assert events["bright_avg"][k] == pytest.approx(inside.mean())
            assert events["bright_sd"][k] == pytest.approx(inside.std())
            assert events["bright_bc_avg"][k] == pytest.approx(corrected.mean())
            assert events["bright_bc_sd"][k] == pytest.approx(corrected.std())
            for percent in (10, 90):
                expected = np.percentile(corrected, percent)
                assert events[f"bright_perc_{percent}"][k] == pytest.approx(expected)
            assert events["bg_med"][k] == np.median(events["image_bg"][k])


def test_distributions_look_like_a_measurement(frames: list[Events]) -> None:
    """Areas and deformations in the range of real cells; larger cells deform more."""
    area_um, deform = joined(frames, "area_um"), joined(frames, "deform")
    assert area_um.min() > 20
    assert area_um.max() < 150
    assert deform.min() > 0
    assert 0.08 < deform.max() < 0.2
    assert 0.3 < np.corrcoef(area_um, deform)[0, 1] < 0.9
    assert (joined(frames, "area_ratio") >= 1).all()


def test_frame_and_time(frames: list[Events]) -> None:
    """Time follows from the frame and the frame rate."""
    assert np.allclose(joined(frames, "time"), joined(frames, "frame") / SETTINGS.frame_rate_hz)


def ratio(images: NDArray[Any]) -> float:
    """Return the compression ratio of chunks of 40 images."""
    codec = Zstd(level=5)
    chunks = [images[k : k + 40].tobytes() for k in range(0, len(images) - 39, 40)]
    return sum(map(len, chunks)) / sum(len(codec.encode(chunk)) for chunk in chunks)


def test_images_compress_like_real_ones() -> None:
    """Bounds around a real recording: image 1.84, image_bg 50, mask 456 (decision 0003)."""
    recording = SimulatedRecording(SimulationSettings(frames=900))
    every = (recording.frame_events(index) for index in range(900))
    frames = [events for events in every if events is not None]
    unique = np.stack([events["image"][0] for events in frames])
    assert 1.84 * 0.87 < ratio(unique) < 1.84 * 1.13
    assert 50 / 1.5 < ratio(joined(frames, "image_bg")) < 50 * 1.5
    assert 456 / 1.5 < ratio(joined(frames, "mask").astype(np.uint8) * 255) < 456 * 1.5


def test_no_repeats_between_frames() -> None:
    """Images side by side gain little over images alone, so no noise comes back."""
    recording = SimulatedRecording(SimulationSettings(frames=400))
    every = (recording.frame_events(index) for index in range(400))
    unique = np.stack([events["image"][0] for events in every if events is not None])[:80]
    # rows that are found again anywhere, 24 px long, would be matches of a compressor
    pieces = np.lib.stride_tricks.sliding_window_view(unique, 24, axis=2)[:, ::4, ::8]
    rows = np.ascontiguousarray(pieces).reshape(-1, 24)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_noise_setting_decides_compressibility() -> None:
    """Less noise compresses better."""
    ratios = []
    for noise in (0.0, 0.5, 1.0, 2.0):
        recording = SimulatedRecording(
            SimulationSettings(frames=40, events_per_frame=6.0, noise=noise)
        )
        every = (recording.frame_events(index) for index in range(40))
        unique = np.stack([events["image"][0] for events in every if events is not None])
        ratios.append(len(unique.tobytes()) / len(Zstd(level=5).encode(unique.tobytes())))
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 2 * ratios[2]


@pytest.mark.parametrize(("n_frames", "n_workers"), [(0, 2), (1, 3), (1000, 1), (5000, 4)])
def test_scrambled_frames(n_frames: int, n_workers: int) -> None:
    """Each frame once, the same each time."""
    workers = scrambled_frames(n_frames, n_workers, seed=3)
    assert len(workers) == n_workers
    assert sorted(index for worker in workers for index in worker) == list(range(n_frames))
    assert workers == scrambled_frames(n_frames, n_workers, seed=3)
    assert all(isinstance(index, int) for worker in workers for index in worker)


def test_scrambled_frames_are_out_of_order() -> None:
    """Within each worker, too."""
    for worker in scrambled_frames(2000, 3, seed=1):
        assert worker != sorted(worker)
        assert max(np.diff(worker)) < 600


def test_tile_with_noise(frames: list[Events]) -> None:
    """Copies of an image differ by fresh noise around it."""
    images = joined(frames, "image")[:3]
    tiled = tile_with_noise(images, 60, seed=5)
    assert tiled.shape == (60, 80, 320)
    assert tiled.dtype == np.uint8
    assert np.array_equal(tiled, tile_with_noise(images, 60, seed=5))
    assert len({image.tobytes() for image in tiled}) == 60
    difference = tiled[::3].astype(float) - images[0]
    assert difference.mean() == pytest.approx(0, abs=0.01)
    assert difference.std() == pytest.approx(math.sqrt(1 + 1 / 12), rel=0.03)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 8, 8), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.zeros((1, 8, 8), np.float64),
    ],
    ids=["none", "2D", "float"],
)
def test_tile_with_noise_refuses(images: NDArray[Any]) -> None:
    """Only a stack of uint8 images."""
    with pytest.raises(DataError, match="must have the shape"):
        tile_with_noise(images, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_shape", (15, 320)),
        ("frames", -1),
        ("events_per_frame", -0.1),
        ("frame_rate_hz", 0.0),
        ("pixel_size_um", math.nan),
        ("channel_width_um", math.inf),
        ("area_um_range", (150.0, 20.0)),
        ("noise", -1.0),
        ("background_period_frames", 0),
        ("seed", -1),
    ],
)
def test_settings_out_of_range(name: str, value: object) -> None:
    """The message names the setting and the value."""
    with pytest.raises(DataError, match=name):
        SimulationSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("frame_index", [-1, 200])
def test_frame_out_of_range(recording: SimulatedRecording, frame_index: int) -> None:
    """No wrap-around."""
    with pytest.raises(DataError, match="below 200"):
        recording.frame_events(frame_index)


def test_scrambled_frames_refuses() -> None:
    """At least one worker."""
    with pytest.raises(DataError, match="n_workers at least 1"):
        scrambled_frames(10, 0)


def test_metadata_and_logs(recording: SimulatedRecording) -> None:
    """Names with one colon, flow rates that add up, lines that are short enough."""
    metadata = recording.metadata()
    assert all(name.count(":") == 1 for name in metadata)
    assert "experiment:event count" not in metadata
    assert metadata["imaging:roi size x"] == 320
    assert metadata["imaging:roi size y"] == 80
    sample, sheath = metadata["setup:flow rate sample"], metadata["setup:flow rate sheath"]
    assert metadata["setup:flow rate"] == float(sample) + float(sheath)
    for lines in recording.logs().values():
        assert lines
        assert max(map(len, lines)) <= 100
