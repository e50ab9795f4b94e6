"""Script that MLflow runs to make the served model: MLflow keeps this code instead of a pickle."""

from mlflow.models import set_model

from hpsearch.serving.served_model import ServedModel

set_model(ServedModel())
