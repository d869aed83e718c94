"""Tests of what is left after a kill, a full disk or a failed call."""
