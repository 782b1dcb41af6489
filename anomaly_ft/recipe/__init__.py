"""What a run is asked to do: every setting, read and checked."""
