"""Studies of a data set or a run: pure functions from features and labels to rows."""
