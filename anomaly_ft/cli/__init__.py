"""The commands of `anomaly-ft`, a module each; heavy libraries are imported when a command runs."""
