"""MLflow: logging a run, the store, the registry, the page."""
