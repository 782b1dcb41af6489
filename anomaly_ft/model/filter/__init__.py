"""The detector that compares features, or pixels, with what a filtering autoencoder makes of them."""
