"""Export and serve a finished run."""
