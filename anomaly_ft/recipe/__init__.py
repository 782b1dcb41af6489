"""The recipe: every setting of a run, read and checked."""
