"""Readers of folder layouts, one file each; all yield the same frozen records. See `detect`."""
