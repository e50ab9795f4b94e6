"""The report of a study: its page, its figures and its descriptions in MLflow."""
