"""`dcwrite recover`: clean recordings from unfinished or damaged ones."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from ..errors import DCWriteError, StorageError, UsageError
from ..store.hdf5 import require_hdf5
from ..store.recover import DEFAULT_TIMEOUT_S, RecoveryReport
from ..store.recover import recover as run_recover
from ..store.stream_file import unfinished_of
from ..store.undo import undo_of
from ..tools.batch import Executor, run_batch
from ..tools.folders import output_folder
from ..tools.progress import Clock
from .cluster_options import cluster_options, open_executor
from .console import Command, ProgressView, clean, fail, print_table, print_text, shown_error
from .inputs import expand_inputs, input_problem, is_pattern

__all__ = ["recover"]

_EXAMPLE: Final = """\b
Example:
  dcwrite recover measurement.rtdc.part
  dcwrite recover measurement.rtdc.part --output /other/disk/measurement.rtdc
  dcwrite recover *.rtdc.part --out-dir rescued
"""
#: Endings of files that no output has, and that are taken out of folders.
_UNFINISHED: Final = (".part", ".journal", ".undo")
_SUFFIXES: Final = (".rtdc.part",)
#: Lines of what was lost that are shown; all of them are in the log "dcwrite-recover".
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class _Job:
    """One input, and its output (None: the default)."""

    path_in: Path
    path_out: Path | None


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one input: a report, or an error."""

    path_in: Path
    report: RecoveryReport | None
    error: str = ""

    @property
    def exit_code(self) -> int:
        return 2 if self.report is None else self.report.exit_code

    def to_dict(self) -> dict[str, Any]:
        if self.report is not None:
            return self.report.to_dict()
        return {"path_in": str(self.path_in), "error": self.error, "exit_code": 2}


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument(
    "inputs", metavar="IN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "-o",
    "--output",
    metavar="OUT.rtdc",
    type=click.Path(path_type=Path),
    help="The recording to write, of one input.  [default: NAME.rtdc beside it, or "
    "NAME_recovered.rtdc where that is taken]",
)
@click.option(
    "--out-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the recordings; it is made if it is missing.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option(
    "--cut-damaged",
    is_flag=True,
    help="Go on after damaged events, and leave them out; else the output ends before them.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="A file without journal: seconds after which HDF5, if it does not come back, is stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object in a line per input.")
@cluster_options
@click.pass_context
def recover(
    ctx: click.Context,
    inputs: tuple[Path, ...],
    output: Path | None,
    out_dir: Path | None,
    overwrite: bool,
    cut_damaged: bool,
    timeout_s: float,
    as_json: bool,
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
) -> None:
    """Write clean recordings with all whole events of unfinished or damaged ones.

    IN is NAME.rtdc.part (or NAME.rtdc, where that and its journal are beside it), any .rtdc file
    that was not closed or is damaged, a folder (the unfinished recordings in it) or a pattern; it
    is only read. In the form IN OUT, without --output and --out-dir, the second name is the
    output: it must not be there yet. The exit code is 0 if all committed events were rescued, 1
    if something is lost, 2 if nothing could be rescued; of many inputs, the highest.
    """
    jobs = _jobs(inputs, output, out_dir)
    run = partial(_run, overwrite=overwrite, cut_damaged=cut_damaged, timeout_s=timeout_s)
    results = []
    with (
        nullcontext() if out_dir is None else output_folder(out_dir),
        open_executor(scheduler, cluster) as executor,
        ProgressView(quiet=quiet or len(jobs) == 1) as view,
    ):
        if executor is not None:
            results = _run_there(run, jobs, out_dir, view, executor)
        else:
            clock = Clock("recovering", len(jobs), "files", view)
            for number, job in enumerate(jobs):
                results.append(run(job))
                clock.show(number + 1)
    for result in results:
        if result.report is None:
            fail(result.error)
        if as_json:
            print_text(json.dumps(result.to_dict()))
        elif result.report is not None:
            _print_report(result.report, quiet=quiet)
    if not as_json and not quiet:
        _print_end(results)
    ctx.exit(max(result.exit_code for result in results))


def _jobs(inputs: Sequence[Path], output: Path | None, out_dir: Path | None) -> list[_Job]:
    """What is to be done; refuses what could be meant in two ways."""
    if output is not None and out_dir is not None:
        raise UsageError("expected --output or --out-dir, got both; leave one out")
    if output is None and out_dir is None and len(inputs) == 2 and _is_one(inputs[0]):
        second = inputs[1]
        if not _is_there(second, inputs[0]):
            return [_Job(inputs[0], second)]
        if second.suffix not in _UNFINISHED:
            raise UsageError(
                f"'{inputs[0]}' '{second}': expected IN and an OUT that is not there yet, got two "
                f"names that are there; say --output '{second}' --overwrite to replace the "
                f"second, or --out-dir DIR to recover both (nothing was done)"
            )
    found = _once(expand_inputs(inputs, _SUFFIXES))
    if output is not None:
        if len(found) != 1:
            raise UsageError(
                f"--output: expected one input, got {len(found)}; say --out-dir DIR for several"
            )
        return [_Job(found[0], output)]
    if out_dir is None:
        return [_Job(path, None) for path in found]
    return _jobs_in(out_dir, found)


def _jobs_in(out_dir: Path, inputs: Sequence[Path]) -> list[_Job]:
    """One output in a folder for each input."""
    sources: dict[Path, Path] = {}
    jobs = []
    for path in inputs:
        target = _target_in(out_dir, path)
        if target in sources:
            raise UsageError(
                f"'{sources[target]}' and '{path}' would both become '{target}'; recover one of "
                f"them to another folder (nothing was done)"
            )
        sources[target] = path
        jobs.append(_Job(path, target))
    return jobs


def _target_in(out_dir: Path, path: Path) -> Path:
    target = out_dir / _target(path).name
    if target.resolve() == path.resolve():  # a damaged NAME.rtdc, beside itself
        target = target.with_name(f"{target.stem}_recovered{target.suffix}")
    return target


def _is_one(path: Path) -> bool:
    return not path.is_dir() and not is_pattern(path)


def _is_there(path: Path, path_in: Path) -> bool:
    """Whether a name cannot be that of a new output."""
    return (
        path.suffix in _UNFINISHED
        or path.exists()
        or is_pattern(path)
        or unfinished_of(path) not in {None, unfinished_of(path_in)}
    )


def _target(path: Path) -> Path:
    """NAME.rtdc of an unfinished recording, by whichever of its names."""
    return path.with_name(
        path.name.removesuffix(".undo").removesuffix(".part").removesuffix(".journal")
    )


def _once(inputs: Sequence[Path]) -> list[Path]:
    """Inputs without those that are the same unfinished recording by another of its names."""
    seen: set[Path] = set()
    found = []
    for path in inputs:
        left = unfinished_of(path) or undo_of(path)
        key = path if left is None else left[0]
        if key not in seen:
            found.append(path)
        seen.add(key)
    return found


def _run(job: _Job, *, overwrite: bool, cut_damaged: bool, timeout_s: float) -> _Result:
    path = job.path_in
    is_left = unfinished_of(path) is not None or undo_of(path) is not None
    problem = None if is_left else input_problem(path, _SUFFIXES)
    if problem is not None:
        return _Result(path, None, problem)
    try:
        if not is_left and path.suffix != ".undo":
            require_hdf5(path)
        report = run_recover(
            path, job.path_out, overwrite=overwrite, cut_damaged=cut_damaged, timeout_s=timeout_s
        )
    except (DCWriteError, OSError, RuntimeError, ValueError) as exc:
        return _Result(path, None, _named(path, exc))
    return _Result(path, report)


def _run_there(
    run: Callable[[_Job], _Result],
    jobs: Sequence[_Job],
    out_dir: Path | None,
    view: ProgressView,
    executor: Executor,
) -> list[_Result]:
    """The same on the workers of a cluster; paths come back as they were typed."""
    output = jobs[0].path_out if len(jobs) == 1 else None
    task = partial(_run_one, run, output=output, out_dir=out_dir)
    paths = [job.path_in for job in jobs]
    batch = run_batch(task, paths, stage="recovering", progress=view, executor=executor)
    results = []
    for job, outcome in zip(jobs, batch.outcomes, strict=True):
        if outcome.error is not None:
            results.append(_Result(job.path_in, None, _named(job.path_in, outcome.error)))
            continue
        report = outcome.result.report
        if report is not None:
            target = job.path_out or job.path_in.with_name(report.path_out.name)
            report = replace(report, path_in=job.path_in, path_out=target)
        results.append(_Result(job.path_in, report, outcome.result.error))
    return results


def _run_one(
    run: Callable[[_Job], _Result],
    path: Path,
    *,
    output: Path | None,
    out_dir: Path | None,
    threads: int | None,
    progress: Any,
) -> _Result:
    """What a worker does."""
    del threads, progress
    if output is None and out_dir is not None:
        output = _target_in(out_dir, path)
    return run(_Job(path, output))


def _named(path: Path, exc: Exception) -> str:
    """An error that names its input."""
    text = shown_error(exc)
    if isinstance(exc, StorageError) and exc.errno == errno.EEXIST:
        return text  # it is about the output
    return text if path.name in text else f"'{path}': {text}"


def _print_report(report: RecoveryReport, *, quiet: bool) -> None:
    if not quiet:
        print_text(
            f"{clean(str(report.path_out))}: {report.n_events:,} of {report.n_announced:,} events "
            f"rescued from {clean(str(report.path_in))}"
        )
        for note in report.notes:
            print_text(f"  note: {clean(note)}")
    for line in report.damaged[:_SHOWN]:
        print_text(f"  lost: {clean(line)}")
    if len(report.damaged) > _SHOWN:
        print_text(f"  lost: {len(report.damaged) - _SHOWN} more (log 'dcwrite-recover')")


def _print_end(results: Sequence[_Result]) -> None:
    if len(results) > 1:
        print_text()
        print_table(
            ("input", "result", "events", "of", "output"),
            [
                (
                    str(result.path_in),
                    ("rescued", "in part", "failed")[result.exit_code],
                    "" if result.report is None else f"{result.report.n_events:,}",
                    "" if result.report is None else f"{result.report.n_announced:,}",
                    "" if result.report is None else str(result.report.path_out),
                )
                for result in results
            ],
            right=("events", "of"),
        )
    if all(result.exit_code == 0 for result in results):
        them = "it" if len(results) == 1 else "them"
        paths = [result.path_in for result in results]
        has_left = any(unfinished_of(path) or undo_of(path) for path in paths)
        then = ", then delete the unfinished files" if has_left else ""
        print_text(f"Check {them} with `dcwrite verify`{then}.")
