"""Bounds of hyperparameters, and the KerasTuner hyperparameters that an Optuna trial fills in."""
