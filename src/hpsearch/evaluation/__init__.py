"""What a registered model is worth, and whether it knows what it does not know."""
