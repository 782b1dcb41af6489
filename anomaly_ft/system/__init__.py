"""Files, signals and the network."""
