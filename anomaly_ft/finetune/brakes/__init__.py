"""Brakes that hold an encoder to its pretrained weights. None is on by default."""
