"""How a finished run is used elsewhere."""
