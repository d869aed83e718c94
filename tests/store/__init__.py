"""Tests with real HDF5 files."""
