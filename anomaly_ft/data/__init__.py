"""Where images come from: layouts, decoding, splits, vicinal augmentations."""
