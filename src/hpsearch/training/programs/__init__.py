"""Compile training steps into programs, and prove that a program trains a model as Keras does."""
