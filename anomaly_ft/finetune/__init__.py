"""Fine-tuning of the encoder, and validation that sees forgetting."""
