"""Training of one model, or of many models in one program."""
