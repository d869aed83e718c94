"""HDF5Writer against a model in memory: any order of calls, good ones and bad ones.

Whenever the file is looked at through `writer.h5`, it is what the model says; after each close it
is so for plain h5py. A call that raises changes nothing, not even a group. Three machines: one
looks after each step, one at times (until then rows wait in memory), one writes a stream (rows
are there after `flush`).
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - plain h5py needs it
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import dcwrite
from tests.store.model import (
    BAD_CALLS,
    CHUNKS,
    COUNTS,
    DTYPES,
    FEATURES,
    ITEM_SHAPES,
    MAPPINGS,
    NAMES,
    SEEDS,
    SPECIAL,
    TEXTS,
    converted,
    json_of,
    make_rows,
)


class WriterMachine(RuleBasedStateMachine):
    """The file is looked at after each step."""

    looks_always = True
    stream = False

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "x.rtdc"
        #: path in the file -> rows, text lines, tables
        self.arrays: dict[str, np.ndarray] = {}
        self.contours: list[np.ndarray] | None = None
        self.logs: dict[str, list[str]] = {}
        self.basins: dict[str, dict[str, Any]] = {}
        self.metadata: dict[str, Any] = {}
        self.handle: h5py.File | None = None
        self.written: set[str] = set()
        self.is_flushed = True

    # opening and closing

    @initialize(threads=st.sampled_from([1, 2]), chunks=CHUNKS)
    def create(self, threads: int, chunks: dict[str, int | None]) -> None:
        """Begin with empty features whose chunks are small, so that a few rows fill some."""
        self.options: dict[str, Any] = {"threads": threads, "stream": self.stream}
        with h5py.File(self.path, "w") as h5:
            for feat, chunk_events in chunks.items():
                if chunk_events is not None:
                    empty = np.zeros((0, *ITEM_SHAPES[feat]))
                    h5.create_dataset(
                        f"events/{feat}",
                        data=empty,
                        maxshape=(None, *empty.shape[1:]),
                        chunks=(chunk_events, *empty.shape[1:]),
                        **dcwrite.set_default_filter_kwargs(),
                    )
                    self.arrays[f"events/{feat}"] = empty
        self.open()

    def open(self, *, foreign: bool = False, **options: Any) -> None:
        if foreign:
            self.handle = h5py.File(self.path, "a")
        self.writer = dcwrite.HDF5Writer(self.handle or self.path, **self.options, **options)
        self.with_summary = bool(options.get("scalar_attributes"))
        self.written = set()
        self.is_flushed, self.has_looked = True, self.looks_always

    def close(self) -> None:
        self.writer.close()
        self.writer.close()  # a second time does nothing
        if self.handle is not None:
            self.check(self.handle)  # it stays open
            self.handle.close()
            self.handle = None
        with h5py.File(self.path) as h5:
            self.check(h5)
            if self.with_summary:
                self.check_summaries(h5)

    @rule(foreign=st.booleans(), summary=st.booleans())
    def reopen(self, foreign: bool, summary: bool) -> None:
        self.close()
        with pytest.raises(dcwrite.ClosedError):
            self.writer.store_feature_chunk("deform", np.zeros(1))
        self.open(foreign=foreign, scalar_attributes=summary)

    @rule()
    def flush(self) -> None:
        self.writer.flush()
        self.is_flushed = True

    @rule()
    def look(self) -> None:
        """From now on rows are in the file at once."""
        self.has_looked = True

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.close()
        self.folder.cleanup()

    # features

    def append(self, name: str, rows: np.ndarray) -> None:
        old = self.arrays.get(name)
        self.arrays[name] = rows if old is None else np.concatenate([old, rows])
        self.written.add(name)
        self.is_flushed = False

    def pass_on(self, feat: str, data: Any) -> None:
        """Store a copy, which the caller then uses for something else."""
        if self.stream:
            self.writer.store_feature_chunk(feat, data)
            return
        copies = {k: v.copy() for k, v in data.items()} if isinstance(data, dict) else data.copy()
        self.writer.store_feature_chunk(feat, copies)
        for array in copies.values() if isinstance(copies, dict) else [copies]:
            array[...] = 1

    @rule(feat=FEATURES, dtype=DTYPES, chunk_events=st.sampled_from([1, 2, 3, 8]))
    def require(self, feat: str, dtype: str, chunk_events: int) -> None:
        chunks = (chunk_events, *ITEM_SHAPES[feat])
        dset, offset = self.writer.require_feature(
            feat, ITEM_SHAPES[feat], np.dtype(dtype), ds_kwds={"chunks": chunks}
        )
        name = f"events/{feat}"
        if name not in self.arrays:
            self.append(name, np.zeros((0, *ITEM_SHAPES[feat]), dtype))
        assert offset == len(self.arrays[name])
        assert self.stream or dset.shape == self.arrays[name].shape

    @rule(feat=FEATURES, n_events=COUNTS, dtype=DTYPES, seed=SEEDS, special=st.none() | SPECIAL)
    def store(
        self, feat: str, n_events: int, dtype: str, seed: int, special: float | None
    ) -> None:
        rows = make_rows(feat, n_events, dtype, seed)
        if special is not None and n_events and (dtype.startswith("f") or special % 1 == 0):
            rows.flat[-1] = np.array(special).astype(dtype)  # integers may wrap
        name = f"events/{feat}"
        old = self.arrays.get(name)
        stored = rows if old is None else converted(rows, old.dtype)
        if stored is None:
            with pytest.raises(dcwrite.EventError, match=feat):
                self.writer.store_feature_chunk(feat, rows)
        else:
            self.pass_on(feat, rows)
            self.append(name, stored)

    @rule(feat=FEATURES, batches=st.lists(COUNTS, min_size=2, max_size=6), seed=SEEDS)
    def store_batches(self, feat: str, batches: list[int], seed: int) -> None:
        name = f"events/{feat}"
        dtype = self.arrays[name].dtype if name in self.arrays else np.dtype("float64")
        for number, n_events in enumerate(batches):
            rows = make_rows(feat, n_events, "uint8", seed + number) % 2
            self.pass_on(feat, rows.astype(dtype))
            self.append(name, rows.astype(dtype))
            self.is_visible()

    @rule(n_events=COUNTS, seed=SEEDS, form=st.sampled_from(["bool", "0/1", "0/255"]))
    def store_mask(self, n_events: int, seed: int, form: str) -> None:
        mask = np.random.default_rng(seed).random((n_events, 3, 4)) > 0.5
        factor = {"bool": None, "0/1": np.uint8(1), "0/255": np.uint8(255)}[form]
        self.pass_on("mask", mask if factor is None else mask * factor)
        self.append("events/mask", mask * np.uint8(255))

    @rule(n_events=COUNTS, seed=SEEDS, as_mapping=st.booleans())
    def store_trace(self, n_events: int, seed: int, as_mapping: bool) -> None:
        rng = np.random.default_rng(seed)
        traces = {name: rng.integers(-99, 99, (n_events, 6)) for name in ("fl1_raw", "fl2_raw")}
        if as_mapping:
            self.pass_on("trace", traces)
        for name, rows in traces.items():
            if not as_mapping:
                self.pass_on(f"trace/{name}", rows)
            self.append(f"events/trace/{name}", rows)

    @rule(lengths=st.lists(st.integers(0, 4), max_size=4), seed=SEEDS)
    def store_contour(self, lengths: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        items = [rng.integers(0, 99, (n_points, 2)) for n_points in lengths]
        self.writer.store_feature_chunk("contour", items)
        self.contours = [*(self.contours or []), *items]

    # changes past the writer, which every caller may make through `h5`

    def may_change(self) -> bool:
        return self.has_looked and not self.stream and bool(self.known())

    def known(self) -> list[str]:
        return [f"events/{feat}" for feat in ITEM_SHAPES if f"events/{feat}" in self.arrays]

    @precondition(may_change)
    @rule(data=st.data(), n_events=COUNTS, seed=SEEDS)
    def append_past_the_writer(self, data: st.DataObject, n_events: int, seed: int) -> None:
        name = data.draw(st.sampled_from(self.known()))
        rows = make_rows(name.removeprefix("events/"), n_events, "uint8", seed) % 2
        dset = self.writer.h5[name]
        dset.resize(len(dset) + n_events, axis=0)
        dset[len(dset) - n_events :] = rows.astype(dset.dtype)
        self.arrays[name] = np.concatenate([self.arrays[name], rows.astype(dset.dtype)])

    @precondition(may_change)
    @rule(data=st.data())
    def overwrite_past_the_writer(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.known()))
        self.writer.h5[name][-2:] = 1
        self.arrays[name] = self.arrays[name].copy()
        self.arrays[name][-2:] = 1

    @precondition(may_change)
    @rule(data=st.data(), replace=st.booleans(), n_events=st.sampled_from([2, 9]))
    def delete_past_the_writer(self, data: st.DataObject, replace: bool, n_events: int) -> None:
        name = data.draw(st.sampled_from(self.known()))
        del self.writer.h5[name]
        del self.arrays[name]
        self.written.discard(name)
        if replace:
            rows = make_rows(name.removeprefix("events/"), n_events, "int16", 1)
            self.writer.h5.create_dataset(
                name, data=rows, maxshape=(None, *rows.shape[1:]), compression="gzip"
            )
            self.arrays[name] = rows

    # logs, tables, metadata

    @rule(name=NAMES, lines=TEXTS, override=st.booleans())
    def store_log(self, name: str, lines: list[str], override: bool) -> None:
        if name in self.logs and not override:
            with pytest.raises(dcwrite.MetadataError, match="exists"):
                self.writer.store_log(name, lines)
            return
        dset = self.writer.store_log(name, lines, override=override)
        assert dset.name == f"/logs/{name}"
        self.logs[name] = lines

    @rule(name=NAMES, n_rows=COUNTS, override=st.booleans())
    def store_table(self, name: str, n_rows: int, override: bool) -> None:
        columns = {"x": np.arange(n_rows), "y y": np.linspace(0, 1, n_rows)}
        if f"tables/{name}" in self.arrays and not override:
            with pytest.raises(dcwrite.MetadataError, match="exists"):
                self.writer.store_table(name, columns)
            return
        self.writer.store_table(name, columns, override=override)
        table = np.zeros(n_rows, dtype=[("x", "int64"), ("y y", "float64")])
        for key, column in columns.items():
            table[key] = column
        self.arrays[f"tables/{name}"] = table

    @rule(width=st.floats(1, 99), medium=st.sampled_from(["water", "ä"]), is_bad=st.booleans())
    def store_metadata(self, width: float, medium: str, is_bad: bool) -> None:
        values = {"setup:channel width": width, "setup:medium": medium}
        if is_bad:
            with pytest.raises(dcwrite.MetadataError):
                self.writer.store_metadata({**values, "setup:unheard of": 1})
        else:
            self.writer.store_metadata(values)
            self.metadata.update(values)

    # basins

    def mapping_name(self, mapping: np.ndarray) -> str | None:
        for number in range(10):
            name = f"events/basinmap{number}"
            if name not in self.arrays or np.array_equal(self.arrays[name], mapping):
                return name
        return None

    def store_basin(
        self, expected: dict[str, Any], mapping: np.ndarray | None, **arguments: Any
    ) -> bool:
        name = None if mapping is None else self.mapping_name(mapping)
        if mapping is not None and name is None:
            with pytest.raises(dcwrite.BasinError, match="at most 10"):
                self.writer.store_basin(mapping=mapping, **arguments)
            return False
        key = self.writer.store_basin(mapping=mapping, **arguments)
        if mapping is not None and name is not None:
            expected["mapping"] = name.removeprefix("events/")
            if name not in self.arrays:
                self.append(name, mapping)
        self.basins[key] = expected
        return True

    @rule(name=NAMES, mapping=st.none() | MAPPINGS, features=st.none() | st.just(["deform"]))
    def store_file_basin(
        self, name: str, mapping: np.ndarray | None, features: list[str] | None
    ) -> None:
        expected = {
            "description": None,
            "name": name,
            "format": "hdf5",
            "paths": ["a.rtdc", "/b"],
            "type": "file",
            "identifier": "id",
            **({"features": features} if features else {}),
        }
        arguments = {"paths": ["a.rtdc", Path("/b")], "features": features, "identifier": "id"}
        self.store_basin(expected, mapping, name=name, **arguments)

    @rule(feat=st.sampled_from(["userdef7", "userdef8", "userdef9"]), mapping=MAPPINGS)
    def store_internal_basin(self, feat: str, mapping: np.ndarray) -> None:
        data = {"name": "internal", "internal_data": {feat: np.arange(3.0)}}
        if f"basin_events/{feat}" in self.arrays:
            with pytest.raises(dcwrite.BasinError, match="already defined"):
                self.writer.store_basin(mapping=mapping, **data)
            return
        expected = {
            "description": None,
            "name": "internal",
            "format": "h5dataset",
            "paths": ["basin_events"],
            "type": "internal",
            "features": [feat],
        }
        if self.store_basin(expected, mapping, **data):
            self.arrays[f"basin_events/{feat}"] = np.arange(3.0)
            self.is_flushed = False

    @rule()
    def use_up_all_mappings(self) -> None:
        for number in range(10):
            self.store_file_basin("many", np.full(4, number), None)

    # bad calls

    @rule(call=st.sampled_from(sorted(BAD_CALLS)))
    def bad_call(self, call: str) -> None:
        with pytest.raises(dcwrite.DataError):
            BAD_CALLS[call](self.writer)

    @precondition(lambda self: any(name in self.arrays for name in self.shaped()))
    @rule(data=st.data(), method=st.sampled_from(["store", "require"]))
    def wrong_shape(self, data: st.DataObject, method: str) -> None:
        name = data.draw(st.sampled_from([n for n in self.shaped() if n in self.arrays]))
        feat = name.removeprefix("events/")
        if method == "store":
            with pytest.raises(dcwrite.EventError, match="shape"):
                self.writer.store_feature_chunk(feat, np.zeros((2, 3, 1), np.uint8))
        else:
            with pytest.raises(dcwrite.EventError, match="shape"):
                self.writer.require_feature(feat, (3, 1), np.uint8)

    @staticmethod
    def shaped() -> list[str]:
        return [f"events/{feat}" for feat in (*ITEM_SHAPES, "mask", "trace/fl1_raw")]

    # what is there

    @invariant()
    def is_visible(self) -> None:
        if hasattr(self, "writer") and (self.is_flushed if self.stream else self.has_looked):
            self.check(self.writer.h5)

    def check(self, h5: h5py.File) -> None:
        contours = {f"events/contour/{n}": item for n, item in enumerate(self.contours or [])}
        arrays = {**self.arrays, **contours}
        names = {*arrays, *(f"logs/{n}" for n in self.logs), *(f"basins/{k}" for k in self.basins)}
        groups = {"events"} | ({"events/contour"} if self.contours is not None else set())
        for name in names:
            parts = name.split("/")[:-1]
            groups.update(itertools.accumulate(parts, lambda a, b: f"{a}/{b}"))
        found: list[str] = []
        h5.visit(found.append)
        assert sorted(found) == sorted({*names, *groups})
        for name, rows in arrays.items():
            assert h5[name].dtype == rows.dtype, name
            np.testing.assert_array_equal(h5[name][()], rows, err_msg=name)
        for name, lines in self.logs.items():
            assert [line.decode() for line in h5["logs"][name][()].tolist()] == lines
        for key, basin in self.basins.items():
            assert json_of(h5["basins"][key]) == basin
        assert dict(h5.attrs) == self.metadata

    def check_summaries(self, h5: h5py.File) -> None:
        for name in self.written:
            rows = self.arrays[name]
            valid = rows[~np.isnan(rows)] if rows.dtype.kind == "f" else rows
            if name.startswith("events") and rows.ndim == 1 and valid.size:
                attrs = dict(h5[name].attrs)
                assert attrs["min"] == valid.min(), name
                assert attrs["max"] == valid.max(), name
                with np.errstate(all="ignore"):
                    assert attrs["mean"] == pytest.approx(valid.mean(dtype="float64"), rel=1e-6)


class DeferringMachine(WriterMachine):
    """The file is looked at when a rule says so."""

    looks_always = False


class StreamMachine(WriterMachine):
    """Rows are in the file after `flush`."""

    stream = True


@pytest.mark.parametrize("machine", [WriterMachine, DeferringMachine, StreamMachine])
def test_state_machine(machine: type[WriterMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=16, stateful_step_count=30))
