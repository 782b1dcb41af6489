"""How each kind of model is fitted, trained and watched."""
