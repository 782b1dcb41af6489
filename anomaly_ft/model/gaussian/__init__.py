"""The detector that compares features with Gaussians of normal images."""
