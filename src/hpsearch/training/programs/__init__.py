"""Training steps as compiled programs, and the proof that they train the same model."""
