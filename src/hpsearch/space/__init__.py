"""Bounds of hyperparameters, and KerasTuner hyperparameters that an Optuna trial draws."""
