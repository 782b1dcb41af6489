"""Brakes: what may hold an encoder to what it knew. None is on by default; each is judged by measurement."""
