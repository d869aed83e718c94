"""The tests of dcwrite."""
