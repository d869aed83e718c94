"""Tests with threads, processes and queues."""
