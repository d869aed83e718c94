"""`dcwrite plot`: a picture of a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from ..tools.plot import DEFAULT_DPI, DPI_RANGE, PlotSummary
from ..tools.plot import plot as run_plot
from ..tools.plot_content import PANELS
from .console import (
    Command,
    ProgressView,
    basin_roots_option,
    clean,
    print_json,
    print_text,
    size,
)

__all__ = ["plot"]

_EXAMPLE: Final = """\b
Example:
  dcwrite plot measurement.rtdc
  dcwrite plot measurement.rtdc report.pdf --features all
  dcwrite plot measurement.rtdc fl.png --panels scatter --x area_um --y fl1_max --log fl1_max
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.argument(
    "path_out", metavar="[OUT.png|OUT.pdf]", required=False, type=click.Path(path_type=Path)
)
@click.option("--x", metavar="FEATURE", help="Feature along x.  [default: area_um]")
@click.option("--y", metavar="FEATURE", help="Feature along y.  [default: deform]")
@click.option(
    "--features",
    metavar="LIST",
    help="Features with a histogram: names and patterns (fl*), separated by commas; all.  "
    "[default: up to 8 common ones]",
)
@click.option(
    "--events",
    type=click.IntRange(min=1),
    metavar="N",
    help="Make density and histograms of N random events.  [default: of all]",
)
@click.option(
    "--panels",
    metavar="LIST",
    help=f"Some of {','.join(PANELS)}.  [default: those that there are data for]",
)
@click.option(
    "--log",
    metavar="LIST",
    help="Features with a logarithmic axis, likewise; none.  [default: fluorescence maxima that "
    "span more than 1.5 decades]",
)
@click.option(
    "--rate-bin",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Width of the bins of the rate.  [default: some 80 bins]",
)
@click.option("--title", metavar="TEXT", help="Title.  [default: the sample's name]")
@click.option(
    "--dpi",
    type=click.IntRange(*DPI_RANGE),
    default=DEFAULT_DPI,
    show_default=True,
    help="Pixels per inch.",
)
@click.option("--one-page", is_flag=True, help="In a PDF, all panels on one page.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of --events."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing picture.")
@basin_roots_option
@click.option("--json", "as_json", is_flag=True, help="Print a summary as a JSON object.")
def plot(
    path: Path,
    path_out: Path | None,
    x: str | None,
    y: str | None,
    features: str | None,
    events: int | None,
    panels: str | None,
    log: str | None,
    rate_bin: float | None,
    title: str | None,
    dpi: int,
    one_page: bool,
    seed: int,
    overwrite: bool,
    basin_roots: tuple[Path, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw a recording: density, gallery of cells, rate over time, histograms.

    A PNG file has all panels in one figure, a PDF file a page for each. Without a name for it, the
    picture is NAME.png beside NAME.rtdc. Needs matplotlib (the extra "plot").
    """
    with ProgressView(quiet=quiet) as view:
        summary = run_plot(
            path,
            path_out,
            x=x,
            y=y,
            features=features,
            events=events,
            panels=panels,
            log=log,
            rate_bin=rate_bin,
            title=title,
            dpi=dpi,
            one_page=one_page,
            overwrite=overwrite,
            seed=seed,
            basin_roots=basin_roots,
            progress=view,
        )
    if not quiet:
        for note in summary.notes:
            click.echo(f"Note: {clean(note)}", err=True)
    if as_json:
        print_json(summary.to_dict())
    elif not quiet:
        print_text(_line(summary))


def _line(summary: PlotSummary) -> str:
    pages = "" if summary.n_pages == 1 else f", {summary.n_pages} pages"
    return (
        f"{clean(str(summary.path_out))}: {', '.join(summary.panels)} of {summary.n_events:,} "
        f"events ({size(summary.size_bytes)}{pages})"
    )
