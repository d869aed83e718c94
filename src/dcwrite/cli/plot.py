"""`dcwrite plot`: pictures of recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from ..tools.batch import Batch
from ..tools.plot import DEFAULT_DPI, DPI_RANGE, KINDS, PlotSummary
from ..tools.plot import plot as run_plot
from ..tools.plot_content import PANELS
from ..tools.plot_many import plot_many
from .console import (
    Command,
    ProgressView,
    basin_roots_option,
    clean,
    print_json,
    print_table,
    print_text,
    seconds,
    size,
)
from .inputs import RECORDINGS, expand_inputs, is_pattern
from .outcomes import print_errors

__all__ = ["plot"]

_EXAMPLE: Final = """\b
Example:
  dcwrite plot measurement.rtdc
  dcwrite plot measurement.rtdc --output report.pdf --features all
  dcwrite plot *.rtdc --out-dir pictures
  dcwrite plot measurement.rtdc fl.png --panels scatter --x area_um --y fl1_max --log fl1_max
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument(
    "names",
    metavar="IN.rtdc...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, readable=False),
)
@click.option(
    "-o",
    "--output",
    "path_out",
    metavar="OUT.png|OUT.pdf",
    type=click.Path(path_type=Path),
    help="The picture of one input.  [default: IN.png beside IN.rtdc]",
)
@click.option(
    "--out-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the pictures of all inputs; made if it is not there.",
)
@click.option(
    "--kind",
    type=click.Choice(list(KINDS.values())),
    default="png",
    show_default=True,
    help="Of pictures whose name is not given.",
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
@click.pass_context
def plot(
    ctx: click.Context,
    /,
    names: tuple[Path, ...],
    path_out: Path | None,
    out_dir: Path | None,
    kind: str,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Draw recordings: density, gallery of cells, rate over time, histograms.

    A PNG file has all panels in one figure, a PDF file a page for each. Without a name for it, the
    picture is IN.png beside IN.rtdc. Each IN may be a folder (the recordings in it) or a pattern.
    Two names of which the second ends in .png or .pdf are IN.rtdc OUT. When files fail, the others
    go on, and the exit code is 2. Needs matplotlib (the extra "plot").
    """
    inputs, path_out = _sorted_out(names, path_out, out_dir)
    if len(inputs) > 1:
        with ProgressView(quiet=quiet) as view:
            batch = plot_many(inputs, out_dir, kind=kind, **options, progress=view)
        _print_many(batch, as_json=as_json, quiet=quiet)
        ctx.exit(batch.exit_code)
    with ProgressView(quiet=quiet) as view:
        summary = _draw_one(inputs[0], path_out, out_dir, {**options, "progress": view}, kind)
    _print_notes(summary, quiet=quiet)
    if as_json:
        print_json(summary.to_dict())
    elif not quiet:
        print_text(_line(summary))


def _draw_one(
    path: Path, path_out: Path | None, out_dir: Path | None, options: Mapping[str, Any], kind: str
) -> PlotSummary:
    if path_out is not None:
        return run_plot(path, path_out, **options)
    batch = plot_many([path], out_dir, kind=kind, **options)
    batch.raise_first()
    summary: PlotSummary = batch.outcomes[0].result
    return summary


def _sorted_out(
    names: Sequence[Path], path_out: Path | None, out_dir: Path | None
) -> tuple[list[Path], Path | None]:
    """Inputs, and the name of the picture if one was given."""
    if path_out is not None and out_dir is not None:
        raise click.UsageError("pass --output or --out-dir, not both")
    if path_out is None and out_dir is None and len(names) == 2 and _is_output(*names):
        return [names[0]], names[1]
    pictures = [name for name in names if name.suffix.lower() in KINDS]
    if pictures:
        raise click.UsageError(
            f"'{pictures[0]}': expected recordings, got the name of a picture; pass one IN.rtdc "
            f"with --output OUT, or --out-dir DIR for several"
        )
    inputs = expand_inputs(names)
    if path_out is not None and len(inputs) > 1:
        raise click.UsageError(f"--output is for one input, got {len(inputs)}; pass --out-dir DIR")
    return inputs, path_out


def _is_output(first: Path, second: Path) -> bool:
    """Whether the second of two names is meant to be the picture of the first."""
    if second.suffix.lower() in KINDS:
        return True
    if first.is_file() and second.is_dir():
        raise click.UsageError(
            f"'{second}': a folder; pass --out-dir '{second}' to have the picture there"
        )
    is_input = (
        second.exists() or is_pattern(second) or second.name.endswith((*RECORDINGS, ".part"))
    )
    return not is_input


def _print_notes(summary: PlotSummary, *, quiet: bool, of_many: bool = False) -> None:
    for note in () if quiet else summary.notes:
        where = f"{clean(str(summary.path))}: " if of_many else ""
        click.echo(f"Note: {where}{clean(note)}", err=True)


def _print_many(batch: Batch, *, as_json: bool, quiet: bool) -> None:
    for outcome in batch.outcomes:
        if outcome.result is not None:
            _print_notes(outcome.result, quiet=quiet, of_many=True)
    print_errors(batch)
    if as_json:
        print_json(batch.to_dict())
    elif not quiet:
        print_table(
            ("file", "state", "events", "picture", "size", "time"),
            [
                (
                    str(outcome.path),
                    "failed" if outcome.result is None else "drawn",
                    "" if outcome.result is None else f"{outcome.result.n_events:,}",
                    "" if outcome.result is None else str(outcome.result.path_out),
                    "" if outcome.result is None else size(outcome.result.size_bytes),
                    seconds(outcome.elapsed_s),
                )
                for outcome in batch.outcomes
            ],
            right=("events", "size", "time"),
        )


def _line(summary: PlotSummary) -> str:
    pages = "" if summary.n_pages == 1 else f", {summary.n_pages} pages"
    return (
        f"{clean(str(summary.path_out))}: {', '.join(summary.panels)} of {summary.n_events:,} "
        f"events ({size(summary.size_bytes)}{pages})"
    )
