"""Tests that touch no disk."""
