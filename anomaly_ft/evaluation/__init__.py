"""What a detector is worth: working points, test numbers, figures."""
