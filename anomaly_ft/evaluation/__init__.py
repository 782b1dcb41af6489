"""Evaluation of a detector: working points, test numbers, figures."""
