"""Checks that find what is wrong with a dataset before anything is trained."""
