"""Refuse settings that hold a secret, wherever they come from.

Hydra writes settings into files, a search records them with its run, and process lists show the
words of a command. So no setting may hold a secret, not even one that is read from an environment
variable by `${oc.env:NAME}`: libraries read secrets from variables and files of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpsearch.errors import ConfigError
from hpsearch.secrets_in_text import has_secret, names_secret

# Hydra sets these environment variables.
_VARIABLES = "hydra.job.env_set."


def refuse_secrets_in_words(words: Sequence[str]) -> None:
    """Raise ConfigError where a word `KEY=VALUE` of a command line holds a secret."""
    for word in words:
        key, _, value = word.partition("=")
        _refuse_secret(key.lstrip("+~"), value.replace("\\", ""))


def refuse_secrets(config: DictConfig | Mapping[str, object]) -> None:
    """Raise ConfigError where a value of a configuration holds a secret, as written or resolved."""
    plain: object = config
    if isinstance(config, DictConfig):
        plain = OmegaConf.to_container(config)
    for path, text in _texts("", plain):
        for inner in re.findall(r"\$\{[^{}]*\}", text):
            _refuse_secret(path, inner)
        if "${" not in text:
            _refuse_secret(path, text)
        elif isinstance(config, DictConfig):
            # What cannot be resolved here is answered elsewhere, or is known only within a job.
            with suppress(OmegaConfBaseException, ValueError):
                _refuse_secret(path, str(OmegaConf.select(config, path)))


def _texts(path: str, node: object) -> Iterator[tuple[str, str]]:
    """Yield each text of a configuration with its dotted path."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(f"{path}.{key}".lstrip("."), value)
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from _texts(f"{path}.{place}", value)


def _refuse_secret(key: str, value: str) -> None:
    is_variable = key.startswith(_VARIABLES) and names_secret(key)
    if is_variable or has_secret(value):
        raise ConfigError(
            f"{key} must not hold a secret, which files and process lists would show; PGPASSWORD "
            "or ~/.pgpass is for one of PostgreSQL, and MLFLOW_TRACKING_PASSWORD, "
            "MLFLOW_TRACKING_TOKEN or MLFLOW_TRACKING_URI for one of MLflow."
        )
