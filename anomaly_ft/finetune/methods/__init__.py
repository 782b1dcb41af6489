"""One file for each kind of model: how it is fitted, trained and validated."""
