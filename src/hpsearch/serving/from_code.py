"""What MLflow runs to make a served model again: code, not a pickle."""

from mlflow.models import set_model

from hpsearch.serving.served_model import ServedModel

set_model(ServedModel())
