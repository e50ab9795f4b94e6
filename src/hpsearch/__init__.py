"""hpsearch: an MLflow-tracked hyperparameter search service for Keras."""
