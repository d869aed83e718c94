"""`dcwrite demo`: simulated cells become a recording and a picture, while one watches."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from ..errors import MissingLibraryError, UsageError
from ..simulate import SimulationSettings
from ..store.whole_file import refuse_output
from ..tools.demo import DemoSummary, default_workers, run_demo
from ..tools.plot import plot
from .console import Command, ProgressView, print_table, print_text, seconds, size

__all__ = ["demo"]

#: About half a minute on two cores.
DEFAULT_FRAMES: Final = 60_000


_EXAMPLE: Final = """\b
Example:
  dcwrite demo --frames 20000 --out cells.rtdc --picture cells.png
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo.rtdc"),
    show_default=True,
    help="The recording.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=Path("demo.png"),
    show_default=True,
    help="Picture of the recording; needs matplotlib.",
)
@click.option("--no-picture", is_flag=True, help="Draw none.")
@click.option(
    "--frames",
    type=click.IntRange(min=1),
    default=DEFAULT_FRAMES,
    show_default=True,
    help="Camera frames to simulate; 3 in 10 show a cell.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Worker processes.  [default: the usable cores, 2 to 4]",
)
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
def demo(
    out: Path,
    picture: Path,
    no_picture: bool,
    frames: int,
    workers: int | None,
    seed: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Simulate cells, stream them into a recording, check and draw it.

    Worker processes make the frames and deliver them out of order, through a queue, to a writer
    process, as in an acquisition. The recording appears when every chunk of it was read back
    right.
    """
    start = time.perf_counter()
    if not no_picture:
        refuse_output(picture, overwrite=overwrite)
        if picture.resolve() == out.resolve():
            raise UsageError(f"'{out}': expected two outputs, got one name for both; change one")
    settings = SimulationSettings(frames=frames, seed=seed)
    with ProgressView(quiet=quiet) as view:
        summary = run_demo(
            out,
            settings,
            workers=default_workers() if workers is None else workers,
            overwrite=overwrite,
            progress=view,
        )
    drawing_s = None
    if not no_picture:
        before = time.perf_counter()
        try:
            plot(out, picture, overwrite=overwrite)
            drawing_s = time.perf_counter() - before
        except MissingLibraryError as exc:
            click.echo(f"Hint: {exc}", err=True)
    if not quiet:
        _print_summary(summary, drawing_s, time.perf_counter() - start)
        if drawing_s is not None:
            print_text(f"The picture is in {picture}.")


def _print_summary(summary: DemoSummary, drawing_s: float | None, total_s: float) -> None:
    about = summary.description
    raw, stored = about.raw_bytes, about.stored_bytes
    print_text(f"{about.path} is written and verified ({summary.n_chunks:,} chunks).")
    print_table(
        ("", ""),
        [
            ("events", f"{summary.n_events:,} in {summary.n_frames:,} frames"),
            ("features", f"{len(about.features)}"),
            ("worker processes", f"{summary.n_workers}"),
            ("raw", f"{raw:,} bytes ({size(raw)})"),
            ("stored", f"{stored:,} bytes ({size(stored)})"),
            ("ratio", f"{raw / stored:.2f}" if stored else "-"),
        ],
    )
    stages: list[tuple[str, float | None]] = [
        ("writing", summary.writing_s),
        ("verifying", summary.verifying_s),
        ("drawing", drawing_s),
        ("everything", total_s),
    ]
    print_table(
        ("stage", "wall time", "events/s", "raw MB/s"),
        [
            (
                name,
                seconds(duration),
                f"{summary.n_events / duration:,.0f}" if name != "drawing" else "",
                f"{raw / duration / 1e6:,.1f}" if name != "drawing" else "",
            )
            for name, duration in stages
            if duration is not None
        ],
        right=("wall time", "events/s", "raw MB/s"),
    )
