"""How the encoder learns, and how forgetting is noticed."""
