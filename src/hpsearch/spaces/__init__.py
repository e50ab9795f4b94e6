"""What is searched, and the KerasTuner hyperparameters that an Optuna trial fills in."""
