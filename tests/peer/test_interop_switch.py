"""The switch that lets dcnum write with dcwrite: what it replaces, where, and the way back."""

from __future__ import annotations

import importlib
import multiprocessing
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dcwrite
from dcwrite.interop import dcnum as switch
from dcwrite.interop import pipeline
from tests.peer.interop_programs import owner_of_writer, put_owner_of_writer
from tests.peer.judge import PEER_REASON

pytest.importorskip("dcnum", reason=PEER_REASON)

pytestmark = pytest.mark.peer

NAMES = [
    "ChunkWriter",
    "EventStash",
    "HDF5Writer",
    "QueueWriterProcess",
    "QueueWriterThread",
    "copy_basins",
    "copy_features",
    "copy_metadata",
    "create_with_basins",
    "set_default_filter_kwargs",
]


def bindings() -> dict[tuple[str, str], Any]:
    """Every name in every loaded module of dcnum, and what it is bound to."""
    return {
        (name, attribute): value
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "dcnum"
        for attribute, value in vars(module).items()
        if not attribute.startswith("__")
    }


@pytest.fixture(autouse=True)
def switched_off() -> Iterator[None]:
    """Load all of dcnum that writes; whatever the test did, leave the switch off."""
    for name in ("dcnum.logic.ctrl", "dcnum.feat.feat_background.bg_copy", "dcnum.write"):
        importlib.import_module(name)
    yield
    switch.disable()


def test_all_public_names() -> None:
    """The list above is dcnum's."""
    import dcnum.write

    public = {
        name
        for name, value in vars(dcnum.write).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == set(NAMES)


def test_every_binding_and_back() -> None:
    before = bindings()
    theirs = {name: before["dcnum.write", name] for name in NAMES}
    with switch.enabled():
        assert switch.is_enabled()
        during = bindings()
        left = [key for key, value in during.items() if any(value is t for t in theirs.values())]
        assert left == []
        for module in ("dcnum.write", "dcnum.logic.ctrl", "dcnum.write.writer"):
            assert during[module, "HDF5Writer"] is pipeline.HDF5Writer
        assert during["dcnum.feat.feat_background.base", "create_with_basins"] is (
            dcwrite.create_with_basins
        )
        # what is not from dcnum.write stays
        changed = {key for key, value in during.items() if before[key] is not value}
        assert {name for _, name in changed} == {
            *NAMES,
            "start_workers_threaded",
            "RequestSingleThreaded",
        }
    assert not switch.is_enabled()
    after = bindings()
    assert before.keys() == after.keys()
    assert all(before[key] is value for key, value in after.items())


def test_a_module_that_is_imported_later() -> None:
    """It takes ours, and gets dcnum's back."""
    name = "dcnum.feat.feat_background.bg_copy"
    loaded = sys.modules.pop(name)
    try:
        with switch.enabled():
            later = importlib.import_module(name)
            assert later.HDF5Writer is pipeline.HDF5Writer
        assert later.HDF5Writer is importlib.import_module("dcnum.write").HDF5Writer
    finally:
        sys.modules[name] = loaded
        # the class registers itself with its base class when it is made
        importlib.import_module("dcnum.feat.feat_background").bg_copy = loaded


def test_again_and_nested() -> None:
    before = bindings()
    with switch.enabled():
        switch.enable()
        with switch.enabled():
            assert owner_of_writer() == "dcwrite.interop.pipeline"
        assert switch.is_enabled()
    assert not switch.is_enabled()
    switch.disable()
    assert all(before[key] is value for key, value in bindings().items())


def test_a_name_of_our_caller_is_not_touched() -> None:
    """Only dcnum's modules, and only where the binding is dcnum's object."""
    import dcnum.write

    theirs = dcnum.write.HDF5Writer
    stranger = types.ModuleType("dcnumlike")
    stranger.HDF5Writer = theirs  # type: ignore[attr-defined]
    own = types.ModuleType("dcnum.own")
    own.HDF5Writer = int  # type: ignore[attr-defined]
    sys.modules.update({"dcnumlike": stranger, "dcnum.own": own})
    try:
        with switch.enabled():
            assert vars(stranger)["HDF5Writer"] is theirs
            assert vars(own)["HDF5Writer"] is int
    finally:
        del sys.modules["dcnumlike"], sys.modules["dcnum.own"]


@pytest.mark.parametrize("version", ["0.30.1", "0.32.0", "1.0", "0.310.0"])
def test_another_version(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    import dcnum

    before = bindings()
    monkeypatch.setattr(dcnum, "__version__", version)
    with pytest.raises(dcwrite.UsageError, match=rf"expected version 0\.31\.x, got {version}"):
        switch.enable()
    assert not switch.is_enabled()
    assert all(before[key] is value for key, value in bindings().items())


def test_no_dcnum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcnum", None)
    with pytest.raises(dcwrite.UsageError, match="dcnum is not installed"):
        switch.enable()
    assert not switch.is_enabled()


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_warnings_under_both_names(tmp_path: Path, name: str) -> None:
    import dcnum.write
    import dcnum.write.writer

    module: Any = {"ours": dcwrite, "theirs": dcnum.write.writer}[name]
    path = tmp_path / "x.rtdc"
    with switch.enabled():
        with pytest.warns(module.CreatingFileWithoutBasinWarning):
            dcnum.write.create_with_basins(path, [])
        lines = np.array([b'{"name": "n", "type": "peculiar", "format": "x",', b'"paths": []}'])
        with h5py.File(path, "a") as h5, h5py.File(tmp_path / "y.rtdc", "w") as h5_out:
            h5.create_group("basins")["key"] = lines
            with pytest.warns(module.IgnoringBasinTypeWarning):
                dcnum.write.copy_basins(h5, h5_out)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dcwrite.create_with_basins(tmp_path / "z.rtdc", [])
    assert [warning.category for warning in caught] == [dcwrite.CreatingFileWithoutBasinWarning]


def test_a_mapping_with_one_row(tmp_path: Path) -> None:
    """What dcnum's runner passes when each frame has given one event."""
    path = tmp_path / "x.rtdc"
    with pipeline.HDF5Writer(path) as writer:
        writer.store_feature_chunk("deform", np.arange(3.0))
        data = {"image_bg": np.zeros((2, 20, 20), np.uint8)}
        writer.store_basin("bg", mapping=np.array([[0, 1, 1]]), internal_data=data)
        with pytest.raises(dcwrite.BasinError):
            writer.store_basin(
                "bg", mapping=np.array([[0, 1], [1, 1]]), internal_data={"userdef1": np.ones(2)}
            )
    with h5py.File(path) as h5:
        assert h5["events/basinmap0"][:].tolist() == [0, 1, 1]


@pytest.mark.parametrize("enabled", [True, False])
def test_spawned_processes(enabled: bool) -> None:
    """The switch gets to them, and to those that they spawn in turn."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=put_owner_of_writer, args=(answers, 1))
    with switch.enabled():
        if enabled:
            process.start()
    if not enabled:  # the hook is still there, and adds nothing
        process.start()
    process.join()
    owner = "dcwrite.interop.pipeline" if enabled else "dcnum.write.writer"
    assert [answers.get(), answers.get()] == [owner] * 2
    answers.close()
    process.close()


#: Without the folders of installed packages, here and in the process that it spawns.
PATHLESS = """
import multiprocessing, sys
sys.path.extend(sys.argv[1].split(":"))

if __name__ == "__main__":
    from dcwrite.interop import dcnum
    from tests.peer.interop_programs import put_owner_of_writer
    dcnum.enable()
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=put_owner_of_writer, args=(answers,))
    process.start()
    process.join()
    print(process.exitcode or answers.get())
"""


def test_a_spawned_process_that_gets_its_module_path(tmp_path: Path) -> None:
    """It cannot import anything of ours before; what it is sent sets the path first."""
    script = tmp_path / "program.py"
    script.write_text(PATHLESS)
    folders = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    result = subprocess.run(
        [sys.executable, "-S", str(script), ":".join(folders)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert result.stdout.strip() == "dcwrite.interop.pipeline", result.stderr


PROGRAM = """
import multiprocessing, sys
from pathlib import Path

class Here:  # can be pickled by name only if this module is __main__ for both sides
    def __call__(self, answers):
        import dcnum.logic.ctrl
        answers.put(dcnum.logic.ctrl.HDF5Writer.__module__)

if __name__ == "__main__":
    import program_helper  # beside the script
    import dcnum.write
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=Here(), args=(answers,))
    process.start()
    print(sys.argv[1:], dcnum.write.HDF5Writer.__module__, answers.get())
    process.join()
    sys.exit(3)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_command(tmp_path: Path, as_module: bool) -> None:
    (tmp_path / "folder").mkdir()
    script = tmp_path / "folder" / "program.py"
    script.write_text(PROGRAM)
    script.with_name("program_helper.py").write_text("")
    program = ["-m", "program"] if as_module else [str(script)]
    result = subprocess.run(
        [sys.executable, "-m", "dcwrite.interop.dcnum", *program, "-m", "argument"],
        cwd=script.parent if as_module else tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    owner = "dcwrite.interop.pipeline"
    assert result.stdout.strip() == f"['-m', 'argument'] {owner} {owner}", result.stderr
    assert result.returncode == 3
    assert result.stderr == ""


@pytest.mark.parametrize("arguments", [[], ["-m"], ["--what"]])
def test_command_without_program(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        switch.main(arguments)
    assert info.value.code == 2
    assert "usage:" in capsys.readouterr().err
    assert not switch.is_enabled()


def test_help_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    switch.main(["--help"])
    assert "usage:" in capsys.readouterr().out
    assert not switch.is_enabled()


def test_command_without_dcnum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcnum", None)
    with pytest.raises(SystemExit, match="dcnum is not installed"):
        switch.main(["nothing.py"])
