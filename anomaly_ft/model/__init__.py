"""Encoder, weights, Gaussian statistics, detector."""
