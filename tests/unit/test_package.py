"""The package says what it is, and says it once."""

from __future__ import annotations

import importlib.metadata
import re
from importlib.resources import files

import dcwrite


def test_one_version() -> None:
    assert importlib.metadata.version("dcwrite") == dcwrite.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", dcwrite.__version__)


def test_types_are_published() -> None:
    assert (files("dcwrite") / "py.typed").is_file()


def test_public_names_exist() -> None:
    assert all(hasattr(dcwrite, name) for name in dcwrite.__all__)
