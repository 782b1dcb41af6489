"""Runs: where all rooms meet."""
