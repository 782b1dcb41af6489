"""Files, signals, and the network: what the machine does to a run."""
