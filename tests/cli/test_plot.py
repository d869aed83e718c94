"""`dcwrite plot`: what is counted, what is drawn, and what is said where something is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import dcwrite as package
from dcwrite import HDF5Writer, Recording, plot
from dcwrite.cli import main
from dcwrite.errors import FeatureNotFoundError, RecordingError, UsageError
from dcwrite.format.labels import feature_label
from dcwrite.simulate import SimulatedRecording, SimulationSettings
from dcwrite.tools import plot_counts, sampling
from dcwrite.tools.gallery import grid_shape
from dcwrite.tools.plot_content import Content, PlotOptions
from dcwrite.tools.plot_counts import find_clock, make_axis, nice_step
from dcwrite.tools.plot_reading import read_content
from dcwrite.tools.sampling import Columns, chosen_rows, take_sample

from .command import dcwrite

matplotlib = pytest.importorskip("matplotlib", reason="needs matplotlib (extra `plot`)")
from dcwrite.tools import picture  # noqa: E402 - it loads matplotlib

PNG = b"\x89PNG\r\n\x1a\n"
REAL = {
    "fmt-hdf5_cytoshot_full-features_2023": ("scatter", "gallery", "rate", "histograms"),
    "fmt-hdf5_fl_2018": ("scatter", "gallery", "rate", "histograms"),
    "fmt-hdf5_fl_wide-channel_2023": ("scatter", "gallery", "rate", "histograms"),
    "fmt-hdf5_shapein_empty": ("scatter", "gallery", "rate", "histograms"),
    "fmt-hdf5_shapein_raw-with-variable-length-logs": ("gallery", "rate"),
    "example_video.rtdc": ("scatter", "gallery", "rate", "histograms"),
}


def write(path: Path, metadata: dict[str, Any] | None = None, **features: Any) -> Path:
    with HDF5Writer(path, mode="x", event_count=True) as writer:
        for name, values in features.items():
            writer.store_feature_chunk(name, values)
        writer.store_metadata(metadata or {})
    return path


def cells(n_events: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "area_um": rng.lognormal(4, 0.4, n_events),
        "deform": rng.beta(2, 20, n_events),
        "bright_avg": rng.normal(130, 8, n_events),
        "time": np.sort(rng.uniform(0, 60, n_events)),
    }


def odd_recordings(folder: Path) -> Iterator[tuple[str, Path]]:
    rng = np.random.default_rng(1)
    nothing = np.full(5, np.nan)
    images = rng.integers(0, 255, (4, 40, 90), np.uint8)
    yield "nan", write(folder / "nan.rtdc", area_um=nothing, deform=nothing, time=nothing)
    yield "one", write(
        folder / "one.rtdc", image=images[:1], mask=images[:1] > 128,
        **{name: values[:1] for name, values in cells(2).items()},
    )  # fmt: skip
    yield (
        "zero",
        write(folder / "zero.rtdc", image=images[:0], **{n: v[:0] for n, v in cells(2).items()}),
    )
    yield (
        "many",
        write(
            folder / "many.rtdc",
            {"experiment:sample": "a long name $x$ of a sample, as people write them " * 3},
            **cells(30_000),
        ),
    )
    yield (
        "fluorescence",
        write(
            folder / "fl.rtdc",
            {"fluorescence:channel 1 name": "525/50"},
            fl1_max=rng.lognormal(6, 2, 500),
            fl2_max=rng.normal(20, 20, 500),
            fl3_max=np.full(500, -1.0),
            nevents=rng.integers(1, 4, 500).astype(np.uint32),
            frame=np.sort(rng.integers(0, 5000, 500)).astype(np.uint64),
            temp=np.full(500, 23.5),
            **{name: values for name, values in cells(500).items() if name != "time"},
        ),
    )
    yield "images only", write(folder / "images.rtdc", image=images)
    yield "masks only", write(folder / "masks.rtdc", mask=images > 250, deform=np.full(4, 0.1))
    yield (
        "contours",
        write(
            folder / "contours.rtdc",
            image=images,
            contour=[np.array([[20, 10], [60, 10], [60, 30], [20, 30]])] * 4,
        ),
    )
    yield "infinite", write(
        folder / "infinite.rtdc",
        area_um=np.array([np.inf, -np.inf, np.nan, 5.0]), deform=np.array([0.1, 0.2, 0.3, np.nan]),
    )  # fmt: skip


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return dict(odd_recordings(tmp_path_factory.mktemp("odd")))


ODD = (
    "nan", "one", "zero", "many", "fluorescence", "images only", "masks only", "contours",
    "infinite",
)  # fmt: skip


def read(path: Path, **options: Any) -> Content:
    with Recording(path) as recording:
        return read_content(recording, PlotOptions(**options))


# -- how it looks ---------------------------------------------------------------------------


def texts_of(figure: Any) -> dict[Any, Any]:
    """Every text that is drawn, and the rectangle that it takes."""
    renderer = figure.canvas.get_renderer()
    found = [figure._suptitle, figure._supxlabel]
    for axes in figure.axes:
        found += [axes.title, axes._left_title, axes._right_title, *axes.texts]
        if (legend := axes.get_legend()) is not None:
            found += legend.get_texts()
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                found += [axis.label, axis.offsetText]
                found += [
                    label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)
                ]
    shown = [text for text in found if text.get_visible() and text.get_text().strip()]
    return {text: text.get_window_extent(renderer) for text in shown}


def assert_well_made(figure: Any) -> None:
    """No text is on another or outside, and no panel is blank."""
    figure.canvas.draw()
    texts = texts_of(figure)
    width, height = figure.canvas.get_width_height()
    for text, box in texts.items():
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (text, box), (other, its) in combinations(texts.items(), 2):
        over = min(box.x1, its.x1) - max(box.x0, its.x0), min(box.y1, its.y1) - max(box.y0, its.y0)
        assert min(over) < 0.5, (text, other)
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3]
    for axes in figure.axes:
        box = axes.get_window_extent()
        part = pixels[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)]
        assert part.size, axes
        assert part.min() < 200, axes  # something is there


def assert_all_well_made(path: Path, *, as_pages: bool = False, **options: Any) -> Content:
    content = read(path, **options)
    with picture.our_style():
        for figure in picture.make_figures(content, dpi=60, as_pages=as_pages):
            assert_well_made(figure)
    return content


@pytest.mark.parametrize("as_pages", [False, True], ids=["figure", "pages"])
@pytest.mark.parametrize("name", ODD)
def test_odd_recordings_look_well(odd: dict[str, Path], name: str, as_pages: bool) -> None:
    assert_all_well_made(odd[name], as_pages=as_pages)


def test_all_features_look_well(recording: Path) -> None:
    content = assert_all_well_made(recording, as_pages=True, features=("all",))
    assert len(content.histograms) > 40
    assert content.gallery is not None


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_real_recordings_look_well(recording_path: Callable[[str], Path], name: str) -> None:
    content = assert_all_well_made(recording_path(name))
    assert content.panels == REAL[name]


def test_the_picture_of_a_recording(recording: Path, tmp_path: Path) -> None:
    summary = plot(recording, tmp_path / "out.png", dpi=50)
    assert summary.panels == ("scatter", "gallery", "rate", "histograms")
    assert (summary.x, summary.y) == ("area_um", "deform")
    assert summary.n_cells == summary.n_events == summary.n_drawn
    assert summary.n_pages == 1
    assert summary.notes == ()
    stored = (tmp_path / "out.png").read_bytes()
    assert stored.startswith(PNG)
    assert len(stored) == summary.size_bytes
    width, height = (int.from_bytes(stored[at : at + 4], "big") for at in (16, 20))
    assert width == 11 * 50
    assert 400 < height < 1000
    again = plot(recording, tmp_path / "again.png", dpi=50)
    assert (tmp_path / "again.png").read_bytes() == stored
    assert again.features == summary.features


@pytest.mark.parametrize(
    ("options", "n_pages"),
    [
        ({}, 4),
        ({"features": "tex_*", "panels": "histograms"}, 2),
        ({"one_page": True, "panels": ["scatter", "rate"]}, 1),
        ({"panels": "scatter"}, 1),
    ],
    ids=["all", "two of histograms", "one page", "one panel"],
)
def test_pages(recording: Path, tmp_path: Path, options: dict[str, Any], n_pages: int) -> None:
    path = tmp_path / "out.pdf"
    summary = plot(recording, path, dpi=50, **options)
    stored = path.read_bytes()
    assert stored.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", stored)) == summary.n_pages == n_pages
    assert b"CreationDate" not in stored
    assert b"/Subtype /Type0" in stored  # text stays text


def test_settings_of_the_user_are_neither_used_nor_changed(
    recording: Path, tmp_path: Path
) -> None:
    expected = plot(recording, tmp_path / "a.png", dpi=50, panels="rate")
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30.0}):
        before = dict(matplotlib.rcParams)
        plot(recording, tmp_path / "b.png", dpi=50, panels="rate")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "b.png").read_bytes() == expected.path_out.read_bytes()


def test_neither_pyplot_nor_matplotlib_without_need(recording: Path, tmp_path: Path) -> None:
    code = (
        "import sys, dcwrite; print('matplotlib' in sys.modules); "
        "dcwrite.plot(sys.argv[1], sys.argv[2], panels='rate', dpi=50); "
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(recording), str(tmp_path / "out.png")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert shown.stdout.split() == ["False", "True", "False"]


# -- what is counted ------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even small recordings be many blocks that are not kept."""
    monkeypatch.setattr(sampling, "BLOCK_EVENTS", 97)
    monkeypatch.setattr(sampling, "KEPT_BYTES", 0)
    monkeypatch.setattr(plot_counts, "MAX_POINTS", 200)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("events", [None, 500])
def test_every_event_is_counted_once(tmp_path: Path, events: int | None) -> None:
    features = cells(1000)
    features["deform"][::10] = np.nan
    features["fl1_max"] = np.where(
        np.arange(1000) % 4, np.random.default_rng(2).lognormal(5, 2, 1000), 0
    )
    content = read(write(tmp_path / "a.rtdc", **features), events=events, log=("fl1_max",))
    n_drawn = 1000 if events is None else events
    assert content.n_drawn == n_drawn
    for histogram in content.histograms:
        counted = histogram.counts.sum() + histogram.n_outside + histogram.n_unusable
        assert counted == n_drawn, histogram.axis
        if events is None:
            values = features[histogram.axis.feature]
            if histogram.axis.log:
                values = values[values > 0]
            expected, _ = np.histogram(values[np.isfinite(values)], histogram.edges)
            assert np.array_equal(histogram.counts, expected)
    density = content.density
    assert density is not None
    assert density.counts is not None
    assert density.counts.sum() == density.n_shown
    if events is None:
        assert density.n_unusable == 100
        n_bins = plot_counts.DENSITY_BINS
        expected_plane, _, _ = np.histogram2d(
            features["area_um"], features["deform"],
            (density.x.edges(n_bins), density.y.edges(n_bins)),
        )  # fmt: skip
        assert np.abs(density.counts - expected_plane).sum() <= 2  # rounding at edges
    rate = content.rate
    assert rate is not None
    # of all events, whatever is drawn
    assert np.isclose((rate.per_unit * np.diff(rate.edges)).sum(), 1000)


@pytest.mark.usefixtures("small_blocks")
def test_no_more_than_a_block_is_read_at_a_time(tmp_path: Path) -> None:
    longest = 0

    class Watched:
        def __init__(self, feature: Any) -> None:
            self._feature = feature

        def __getitem__(self, key: slice) -> Any:
            nonlocal longest
            values = self._feature[key]
            longest = max(longest, len(values))
            return values

    with Recording(write(tmp_path / "a.rtdc", **cells(1000))) as recording:
        columns = Columns({name: Watched(recording[name]) for name in cells(1)}, 1000)
        sample = take_sample(columns, 200, 0)
    assert 0 < longest <= 97
    assert not columns._kept
    assert len(sample.events) == 200


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("n_events", "n_wanted"), [(0, 5), (1, 1), (500, 500), (500, 1), (500, 333)]
)
def test_a_random_subset(n_events: int, n_wanted: int) -> None:
    def chosen(seed: int) -> list[int]:
        found: list[int] = []
        for start, rows in chosen_rows(n_events, n_wanted, seed):
            length = min(97, n_events - start)
            found += [start + int(row) for row in (range(length) if rows is None else rows)]
        return found

    events = chosen(3)
    assert len(events) == min(n_events, n_wanted)
    assert events == sorted(set(events))
    assert all(0 <= event < n_events for event in events)
    assert chosen(3) == events
    if n_wanted == 333:
        assert chosen(4) != events
        often = np.bincount(np.concatenate([chosen(seed) for seed in range(300)]), minlength=500)
        assert np.abs(often / 300 - 333 / 500).max() < 0.15  # uniform


def test_limits_leave_out_stray_values() -> None:
    values = np.concatenate([np.linspace(0, 1, 9_990), [1e9, -1e9, np.nan, np.inf]])
    axis = make_axis("deform", "Deformation", values)
    assert -0.1 < axis.low < 0
    assert 1 < axis.high < 1.1
    assert make_axis("x", "x", np.full(3, 7.0)).low < 7 < make_axis("x", "x", np.full(3, 7.0)).high
    assert make_axis("x", "x", np.full(3, np.nan)).is_empty


def test_logarithmic_axes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write(
        tmp_path / "a.rtdc", fl1_max=rng.lognormal(5, 2, 300), fl2_max=rng.normal(0, 5, 300),
        area_um=rng.lognormal(4, 1, 300),
    )  # fmt: skip

    def logs(**options: Any) -> list[str]:
        found = read(path, features=("all",), **options).histograms
        return [histogram.axis.feature for histogram in found if histogram.axis.log]

    assert logs() == ["fl1_max"]
    assert logs(log=("none",)) == []
    assert logs(log=("fl*", "area_um")) == ["area_um", "fl1_max", "fl2_max"]


@pytest.mark.parametrize(
    ("features", "metadata", "unit", "mean", "width"),
    [
        ({"time": np.arange(0, 100, 0.5)}, {}, "s", 2.0, 5.0),
        ({"frame": np.arange(200)}, {"imaging:frame rate": 100.0}, "s", 100.0, 0.1),
        ({"frame": np.arange(200)}, {}, "frames", 1.0, 10.0),
        (
            {"time": np.full(200, np.nan), "frame": np.arange(200)},
            {"imaging:frame rate": 100.0}, "s", 100.0, 0.1,
        ),
    ],
    ids=["time", "frame and rate", "frame", "time is missing"],
)  # fmt: skip
def test_rate(
    tmp_path: Path, features: dict[str, Any], metadata: dict[str, Any], unit: str, mean: float,
    width: float,
) -> None:  # fmt: skip
    rate = read(write(tmp_path / "a.rtdc", metadata, **features)).rate
    assert rate is not None
    assert (rate.unit, rate.bin_width) == (unit, width)
    assert rate.mean == pytest.approx(mean, rel=0.02)
    assert rate.per_unit == pytest.approx(mean, rel=0.21)


def test_texts_that_are_no_utf8(tmp_path: Path) -> None:
    path = write(tmp_path / "cells.rtdc", **cells(50), fl1_max=np.arange(50.0))
    with h5py.File(path, "r+") as h5:
        for key in ("experiment:sample", "fluorescence:channel 1 name"):
            h5.attrs[key] = "5 \N{MICRO SIGN}m".encode("latin-1")
    plot(path, tmp_path / "cells.png", dpi=40)
    plot(path, tmp_path / "cells.pdf", dpi=40)
    assert read(path).title == "5 ?m"


def test_bins_of_the_rate(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rtdc", time=np.linspace(0, 10, 1001))
    rate = read(path, rate_bin=3.0).rate
    assert rate is not None
    assert rate.edges.tolist() == [0, 3, 6, 10]  # the rest of 1 s is part of the last
    assert rate.per_unit == pytest.approx(100, rel=0.02)
    with pytest.raises(UsageError, match=r"rate_bin: expected at least 0\.002 s"):
        read(path, rate_bin=0.001)
    assert [nice_step(value) for value in (0.011, 0.2, 3, 70)] == [0.02, 0.2, 5, 100]
    sample = take_sample(Columns({"time": np.full(5, 3.0)}, 5), 5, 0)
    assert find_clock(sample, None, None) is None


def test_few_levels_have_a_bin_each(odd: dict[str, Path]) -> None:
    (histogram,) = read(odd["fluorescence"], features=("nevents",)).histograms
    assert histogram.edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert histogram.counts[[0, -1]].tolist() == [0, 0]


# -- the gallery ----------------------------------------------------------------------------


def test_cells_are_shown_as_they_are_stored(recording: Path) -> None:
    content = read(recording)
    gallery = content.gallery
    assert gallery is not None
    height, width = gallery.tile_shape
    with Recording(recording) as rec:
        for (row, column), event in np.ndenumerate(gallery.events):
            if event < 0:
                continue
            at = np.s_[
                row * (height + 2) : row * (height + 2) + height,
                column * (width + 2) : column * (width + 2) + width,
            ]
            image, mask = rec["image"][int(event)], rec["mask"][int(event)]
            assert gallery.inside[at].sum() == mask.sum()  # nothing is cut
            places = np.lib.stride_tricks.sliding_window_view(image, (height, width))
            assert (places == gallery.picture[at]).all(axis=(2, 3)).any()


def test_the_scale_bar_is_as_long_as_it_says(recording: Path) -> None:
    content = read(recording)
    assert content.pixel_um is not None
    with picture.our_style():
        (figure,) = picture.make_figures(content, dpi=60, as_pages=False)
        figure.canvas.draw()
    (axes,) = [axes for axes in figure.axes if axes.images]
    (label,) = [text.get_text() for text in axes.texts if "µm" in text.get_text()[-2:]]
    (bar,) = axes.lines
    ends = bar.get_xdata()
    assert (ends[1] - ends[0]) * content.pixel_um == pytest.approx(float(label.split()[0]))


def test_without_a_pixel_size_the_scale_is_in_pixels(odd: dict[str, Path]) -> None:
    content = read(odd["contours"])
    assert any("scale bar of the gallery is in pixels" in note for note in content.notes)
    assert content.gallery is not None
    assert len(content.gallery.outlines) == 4


@pytest.mark.parametrize(
    ("n_cells", "aspect", "shape"),
    [(40, 1.0, (8, 5)), (40, 2.1, (6, 7)), (1, 1.0, (1, 1)), (0, 1.0, (1, 1)), (999, 1.0, (8, 5))],
)
def test_shape_of_the_gallery(n_cells: int, aspect: float, shape: tuple[int, int]) -> None:
    assert grid_shape(n_cells, aspect) == shape


def test_images_of_a_basin(recording: Path, tmp_path: Path) -> None:
    shutil.copyfile(recording, tmp_path / "origin.rtdc")
    with Recording(recording) as rec:
        deform, area = rec["deform"][:], rec["area_um"][:]
    rows = np.arange(len(deform))[::-2].copy()
    path = tmp_path / "condensed.rtdc"
    with HDF5Writer(path, mode="x", event_count=True) as writer:
        writer.store_feature_chunk("deform", deform[rows])
        writer.store_feature_chunk("area_um", area[rows])
        writer.store_basin("origin", paths=["origin.rtdc"], mapping=rows)
    content = read(path)
    assert content.gallery is not None
    assert (content.gallery.events >= 0).sum() == len(rows)
    (tmp_path / "origin.rtdc").unlink()
    notes = read(path).notes
    assert any(note.startswith("no gallery: ") and "origin.rtdc" in note for note in notes)


# -- what is missing ------------------------------------------------------------------------


def test_what_was_not_asked_for_is_left_out_with_a_note(odd: dict[str, Path]) -> None:
    content = read(odd["images only"])
    assert content.panels == ("gallery",)
    assert [note.partition(":")[0] for note in content.notes] == [
        "no scatter", "no rate", "no histograms", "no metadata 'imaging",
    ]  # fmt: skip
    for panel in ("scatter", "rate", "histograms"):
        with pytest.raises(RecordingError, match=f"panel '{panel}': there is n.*; leave it out"):
            read(odd["images only"], panels=(panel,))


def test_nothing_to_draw(tmp_path: Path) -> None:
    path = write(tmp_path / "a.rtdc", trace={"fl1_raw": np.zeros((3, 8), np.int16)})
    with pytest.raises(RecordingError, match="nothing to draw"):
        read(path)


def test_features_that_older_recordings_have_in_another_form(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.rtdc", {"imaging:pixel size": 0.5},
        area_cvx=np.array([100.0, 200.0, 400.0]), circ=np.array([0.9, 0.95, 0.8]),
    )  # fmt: skip
    density = read(path).density
    assert density is not None
    assert density.points is not None
    assert density.points[1].tolist() == [25, 50, 100]
    assert density.points[2] == pytest.approx([0.1, 0.05, 0.2])


def test_features_of_different_length(tmp_path: Path) -> None:
    path = tmp_path / "a.rtdc"
    with HDF5Writer(path, mode="x") as writer:
        writer.store_feature_chunk("deform", np.linspace(0, 1, 7))
        writer.store_feature_chunk("area_um", np.linspace(0, 1, 5))
    content = read(path)
    assert content.n_drawn == 5
    assert any("differ in length (5 to 7 events)" in note for note in content.notes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": "deforn"}, FeatureNotFoundError, "got 'deforn'; did you mean deform"),
        ({"features": "fl1_max"}, FeatureNotFoundError, "got 'fl1_max'"),
        ({"y": "image"}, FeatureNotFoundError, "a scalar feature, got 'image'; there are area"),
        ({"panels": "scatter,pie"}, UsageError, "expected some of scatter, .* got 'pie'"),
        ({"panels": "histogram"}, UsageError, r"got 'histogram'; did you mean histograms\?"),
        ({"panels": []}, UsageError, "got none"),
        ({"events": 0}, UsageError, "events: expected at least 1, got 0"),
        ({"dpi": 7}, UsageError, "dpi: expected 40 to 1200, got 7"),
        ({"rate_bin": -1.0}, UsageError, "rate_bin: expected a positive number"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_that_are_refused(
    recording: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plot(recording, tmp_path / "out.png", **options)
    assert not list(tmp_path.iterdir())


# -- the command ----------------------------------------------------------------------------


def run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["plot", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


def test_default_output_and_summary(recording: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(recording, tmp_path / "cells.rtdc"))
    code, out, err = run("--dpi", 50, path)
    assert code == 0, err
    name = f"{tmp_path}/cells.png"
    assert re.fullmatch(
        rf"{name}: scatter, gallery, rate, histograms of \d+ events \([\d.]+ kB\)\n", out
    )
    assert re.search(r"^reading: \d+ of \d+ events", err, re.MULTILINE)
    code, out, err = run("--quiet", path)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: '{tmp_path}/cells.png': the output exists already; ")
    assert run("--quiet", "--overwrite", "--dpi", 50, path) == (0, "", "")


def test_json(recording: Path, tmp_path: Path) -> None:
    code, out, _ = run("--json", "--panels", "rate,histograms", "--features", "deform,bright*",
                       "--rate-bin", "0.01", recording, tmp_path / "a.pdf")  # fmt: skip
    summary = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert summary["panels"] == ["rate", "histograms"]
    assert summary["features"][0] == "deform"
    assert all(name.startswith("bright") for name in summary["features"][1:])
    assert summary["rate_bin"] == 0.01
    assert summary["n_pages"] == 2
    assert summary["path_out"] == str(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.svg", "expected a picture with the ending .png or .pdf, got '.svg'"),
        ("out", "expected a picture with the ending .png or .pdf, got 'out'"),
        ("none/out.png", "the output's folder does not exist; create it first"),
    ],
)
def test_outputs_that_are_refused(
    recording: Path, tmp_path: Path, name: str, message: str
) -> None:
    code, out, err = run("--quiet", recording, tmp_path / name)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_notes_are_told(odd: dict[str, Path], tmp_path: Path) -> None:
    code, _, err = run("--dpi", 50, odd["images only"], tmp_path / "a.png")
    assert code == 0
    assert "Note: no scatter: there is no feature 'area_um' and no feature 'deform'\n" in err


def test_without_matplotlib(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "matplotlib.py").write_text('raise ModuleNotFoundError("not installed")')
    result = dcwrite(
        "plot", "--quiet", recording, "a.png", cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "stub")},
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        'Error: no picture without matplotlib; install it with: pip install "dcwrite[plot]"\n'
    )
    assert not (tmp_path / "a.png").exists()
    assert issubclass(package.MissingLibraryError, ImportError)


def test_every_simulated_feature_has_a_label() -> None:
    simulated = SimulatedRecording(SimulationSettings(frames=30))
    events = next(events for frame in range(30) if (events := simulated.frame_events(frame)))
    for name, values in events.items():
        if values.ndim == 1:
            assert feature_label(name) != name
    assert feature_label("area_um") == "Area [µm²]"
    assert feature_label("deform") == "Deformation"
    metadata = {"fluorescence:channel 2 name": "593/46"}
    assert feature_label("fl2_max", metadata) == "FL-2 (593/46) maximum [a.u.]"
    assert feature_label("never_heard_of") == "never_heard_of"
