"""Datasets: layouts, decoding, splits, vicinal augmentations."""
