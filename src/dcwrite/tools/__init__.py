"""Whole-file jobs on recordings, built from the rooms below."""
