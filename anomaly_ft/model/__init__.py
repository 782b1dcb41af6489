"""What is measured: encoder, weights, induced Gaussian, detector."""
