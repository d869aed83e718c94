"""Tests in which dclab and dcnum read and check what we write."""
