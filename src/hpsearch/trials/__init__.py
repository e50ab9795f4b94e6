"""Running a trial: from its hyperparameters to its end."""
