"""Script that MLflow runs to make the served model: MLflow keeps this code instead of a pickle."""

from mlflow.models import set_model

from hpsearch.backend import choose_backend

choose_backend()  # the next import is the first one of Keras

from hpsearch.serving.served_model import ServedModel  # noqa: E402

set_model(ServedModel())
