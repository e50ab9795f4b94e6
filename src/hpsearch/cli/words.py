"""Write the keywords of `hpsearch.search` as the words of a command line.

A search from Python is composed from the same words as one from a shell. Therefore its mistakes
get the same sentences, and its study can be continued from a shell.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple, ParamSpec, TypedDict, TypeVar, get_args, get_type_hints

import yaml

from hpsearch.cli.config_files import CONF
from hpsearch.command_form import quoted
from hpsearch.errors import ConfigError, did_you_mean


class _Setting(NamedTuple):
    """The key in the configuration of a keyword, and what the keyword is."""

    key: str
    text: str


class Keywords(TypedDict, total=False):
    """The keywords of `hpsearch.search` that are settings, with their types."""

    n_trials: Annotated[int | None, _Setting("budget.n_trials", "The trials of the study.")]
    timeout_s: Annotated[float | None, _Setting("budget.timeout_s", "Seconds of this search.")]
    epochs: Annotated[int | None, _Setting("training.epochs", "The epochs of a trial, at most.")]
    batch_size: Annotated[int | None, _Setting("training.batch_size", "Examples of a step.")]
    monitor: Annotated[
        str | None, _Setting("training.monitor", "The metric to improve, such as val/accuracy.")
    ]
    direction: Annotated[
        str | None,
        _Setting("training.direction", "minimize or maximize, where the metric does not say it."),
    ]
    study_name: Annotated[
        str | None, _Setting("study.name", "A study of this name goes on, where there is one.")
    ]
    name: Annotated[
        str | None, _Setting("data.name", "The data's name, the first half of the study's name.")
    ]
    n_val: Annotated[
        int | None,
        _Setting("data.n_val", "Examples that are split off where validation_data is None."),
    ]
    n_calibration: Annotated[
        int | None,
        _Setting("data.n_calibration", "Examples that are split off to fit thresholds on."),
    ]
    seed: Annotated[int | None, _Setting("seed", "The seed of all randomness.")]
    space: Annotated[
        Mapping[str, object] | None,
        _Setting("space.bounds", "Bounds or a fixed value for hyperparameters, by their names."),
    ]
    sampler: Annotated[str | None, _Setting("sampler", "What suggests, such as random.")]
    pruner: Annotated[str | None, _Setting("pruner", "What stops bad trials, such as median.")]
    optimizer: Annotated[
        str | None, _Setting("optimizer", "For a model that asks for one, such as adam.")
    ]
    schedule: Annotated[str | None, _Setting("schedule", "Of the learning rate, such as cosine.")]
    trainer: Annotated[str | None, _Setting("trainer", "How trials train: alone or fused.")]
    storage: Annotated[str | None, _Setting("storage", "Where the study is, such as journal.")]
    experiment: Annotated[
        str | None, _Setting("tracking.experiment", "The MLflow experiment of the runs.")
    ]
    tracking_uri: Annotated[str | None, _Setting("tracking.uri", "The MLflow store.")]


_TYPES: dict[str, object] = {}
# The key in the configuration of each keyword.
_KEYS: dict[str, str] = {}
_TEXTS: dict[str, str] = {}
for _name, _hint in get_type_hints(Keywords, include_extras=True).items():
    _type, _setting = get_args(_hint)
    _TYPES[_name] = _type
    _KEYS[_name] = _setting.key
    _TEXTS[_name] = _setting.text
_KNOWN_TO_AN_EVALUATION = ("registered_model", "version", "data", "data_path")
_OTHERS = ("validation_data", "test_data", "class_names", "config", "console")
# Keywords of Keras and KerasTuner, with what to say instead.
_FOREIGN = {
    "max_trials": "give n_trials",
    "objective": "give monitor, such as monitor='val/accuracy'",
    "hypermodel": "give it as the first argument",
    "overwrite": "another study_name starts anew",
    "project_name": "give study_name",
    "directory": "give storage and tracking_uri",
    "executions_per_trial": "each trial is trained once",
    "validation_split": "give n_val, the number of examples that are split off",
    "sample_weight": "sample weights cannot be searched with yet",
    "class_weight": "class weights cannot be searched with yet",
    "callbacks": "a HyperModel may have a method companions() that returns them",
    "verbose": "give console, a rich.console.Console",
}


_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def with_keywords(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Show the settings that a function takes as **keywords in its signature and its docstring.

    An editor and mypy read them from `Keywords`, `help` and a notebook from here.
    """
    signature = inspect.signature(function)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.kind != inspect.Parameter.VAR_KEYWORD:
            parameters.append(parameter)
    lines = []
    for name, annotation in _TYPES.items():
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=None, annotation=annotation))
        lines.append(f"        {name}: {_TEXTS[name]} Default: {_KEYS[name]}.")
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    before, line, after = (function.__doc__ or "").partition("        **keywords: ")
    if line:
        _, _, after = after.partition("\n")
        function.__doc__ = before + "\n".join(lines) + "\n" + after
    return function


def words_of(keywords: Mapping[str, object], config: Mapping[str, object] | None) -> list[str]:
    """Return the words `KEY=VALUE` of a search.

    Args:
        keywords: The keywords of `hpsearch.search`; None stands for the configuration's default.
        config: Further settings by their dotted keys; None is a value here.

    Raises:
        ConfigError: A keyword is unknown, or a value has a type that no setting has.
    """
    given = dict(keywords)
    space = given.pop("space", None)
    words = []
    for name, value in given.items():
        if name not in _KEYS:
            raise ConfigError(_unknown(name))
        if value is not None:
            words.append(_word(_KEYS[name], value))
    for name, value in _mapping("space", space).items():
        words.append(_word(f"space.bounds.{name}", value))
    taken = {word.partition("=")[0] for word in words}
    for key, value in _mapping("config", config).items():
        name = key.lstrip("+")
        if name in taken:
            raise ConfigError(f"{name} is given twice, by a keyword and in config.")
        if name in ("data", "arch") or name.startswith(("data.path", "data.load", "arch._")):
            raise ConfigError(f"config must not have {name}: model and data are the arguments.")
        words.append(_word(key, value))
    return words


def words_of_evaluation(config: Mapping[str, object] | None) -> list[str]:
    """Return the words `KEY=VALUE` of an evaluation whose model and data are known.

    Args:
        config: Settings by their dotted keys; None is a value here.

    Raises:
        ConfigError: A key names the model or the data, or a value has a type that no setting has.
    """
    words = []
    for key, value in _mapping("config", config).items():
        name = key.lstrip("+")
        if name == "tracking.uri":
            raise ConfigError(
                "config must not have tracking.uri: a model is evaluated in the MLflow store "
                "of its search."
            )
        if name in _KNOWN_TO_AN_EVALUATION or name.startswith("data."):
            raise ConfigError(
                f"config must not have {name}: model and data are those of the search, and other "
                "test data are given as test_data=(x, y)."
            )
        words.append(_word(key, value))
    return words


def _unknown(name: str) -> str:
    foreign = _FOREIGN.get(name)
    if foreign is not None:
        return f"hpsearch.search has no keyword {name}: {foreign}."
    hint = did_you_mean(name, [*_KEYS, *_OTHERS])
    return f"hpsearch.search has no keyword {name}.{hint}"


def _mapping(name: str, given: object) -> Mapping[str, object]:
    """Return a dictionary whose keys are texts; an empty one for None."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise ConfigError(f"Expected {name} to be a dictionary, received a {kind}.")
    for key in given:
        if not isinstance(key, str):
            raise ConfigError(f"Expected texts as keys of {name}, received {key!r}.")
    return given


def _word(key: str, value: object) -> str:
    if not re.fullmatch(r"\+{0,2}[\w.@/]+", key, re.ASCII):
        raise ConfigError(f"Expected the dotted key of a setting, received {key!r}.")
    return f"{key}={written(value, key)}"


def written(value: object, key: str) -> str:
    """Return a value as Hydra reads it.

    Args:
        value: None, a boolean, a number, a text, a path, or a list or dictionary of these.
        key: The key of the setting, for messages.

    Raises:
        ConfigError: The value has another type.
    """
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return "{" + ",".join(_entries(value, key)) + "}"
    if isinstance(value, list | tuple):
        items = [written(item, key) for item in value]
        return "[" + ",".join(items) + "]"
    return _single(value, key)


def _single(value: object, key: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, Enum):
        raise ConfigError(_no_setting(value, key))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return _quoted(str(value), key)
    raise ConfigError(_no_setting(value, key))


def _no_setting(value: object, key: str) -> str:
    kind = type(value).__name__
    return (
        f"Expected {key} to be a number, a text, true or false, None, or a list or dictionary of "
        f"these; received a {kind}."
    )


def _entries(mapping: Mapping[object, object], key: str) -> Iterator[str]:
    for name, value in mapping.items():
        if not re.fullmatch(r"\w+", str(name), re.ASCII):
            raise ConfigError(f"Expected plain names as keys of {key}, received {name!r}.")
        yield f"{name}:{written(value, key)}"


def _quoted(text: str, key: str) -> str:
    """Return a text that Hydra reads as this text."""
    if "${" in text:
        raise ConfigError(
            f"Expected a text without ${{ in {key}, which would refer to another setting; received "
            f"{text!r}."
        )
    if re.fullmatch(r"[A-Za-z_]\w*(/\w+)*", text, re.ASCII) and text.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    ):
        return text
    return quoted(text)


# A key, and the value that is given to it, if there is one.
_IN_SENTENCE = re.compile(
    r"""(?<![\w./+=@'"-])(?P<key>[a-z_]\w*(?:\.\w+)*)"""
    r"""(?:=(?P<value>'[^']*'|"[^"]*"|\[[^\]]*\]|(?:[^\s,;:)]|:(?=\S))*[^\s,;:.)]))?"""
)
_COMMAND = re.compile(r"\S*hpsearch (?:search|evaluate|report|ablate|compare|doctor)\b")


def in_python(sentence: str) -> str:
    """Return a sentence in which settings are arguments of `hpsearch.search`.

    `budget.n_trials=30` becomes `n_trials=30`, and `training.precision=float64` becomes
    `config={"training.precision": "float64"}`. A key without a value becomes `n_trials` or
    `config["training.precision"]`. A command at the end of the sentence stays as it is.
    """
    command = _COMMAND.search(sentence)
    end = len(sentence)
    if command is not None:
        end = command.start()
    said = _IN_SENTENCE.sub(_argument, sentence[:end])
    said = re.sub(r"(\+\+[\w.]+)=VALUE", r'config={"\1": VALUE}', said)
    return re.sub(r"(?<![\w-])null(?![\w-])", "None", said) + sentence[end:]


def _argument(found: re.Match[str]) -> str:
    """Return a setting in a sentence as an argument; anything else as it is."""
    key = found["key"]
    value = found["value"]
    if value is not None:
        value = _in_python(value)
    for keyword, of_keyword in _KEYS.items():
        if key == of_keyword and value is not None:
            return f"{keyword}={value}"
        if key == of_keyword:
            return keyword
    if key.startswith("space.bounds."):
        names = key.removeprefix("space.bounds.").split(".")
        return _nested("space", names, value)
    if _may_be_in_config(key):
        return _nested("config", [key], value)
    return found[0]


def _nested(
    argument: str,
    names: Sequence[str],
    value: str | None,
) -> str:
    """Return a setting in a dictionary as an argument; without a value its place there."""
    if value is None:
        return argument + "".join(f'["{name}"]' for name in names)
    for name in reversed(names):
        value = f'{{"{name}": {value}}}'
    return f"{argument}={value}"


def _may_be_in_config(key: str) -> bool:
    """Return whether a key is one of conf that `config` may have."""
    if key.startswith(("data.path", "data.load", "arch._")):
        return False
    return key in _keys_of_conf() or key.startswith(("space.bounds.", "arch."))


@cache
def _keys_of_conf() -> frozenset[str]:
    """Return the dotted keys of a search and of an evaluation that no keywords give."""
    search = yaml.safe_load((CONF / "search.yaml").read_text(encoding="utf-8"))
    found = set(_dotted("study", search["study"]))
    evaluate = yaml.safe_load((CONF / "evaluate.yaml").read_text(encoding="utf-8"))
    found.update(_dotted("parts", evaluate["parts"]))
    for file in CONF.glob("[a-z]*/*.yaml"):
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        found.update(_dotted(file.parent.name, settings))
    return frozenset(found)


def _dotted(path: str, settings: object) -> Iterator[str]:
    """Yield the dotted keys of settings, at every depth."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield f"{path}.{name}"
            yield from _dotted(f"{path}.{name}", value)


def _in_python(text: str) -> str:
    """Return the value of a setting as Python writes it."""
    if text[0] == "[":
        items = [_in_python(item.strip()) for item in text[1:-1].split(",")]
        return f"[{', '.join(items)}]"
    words = {"null": "None", "true": "True", "false": "False", "VALUE": "VALUE"}
    if text in words:
        return words[text]
    try:
        if math.isfinite(float(text)):
            return text
    except ValueError:
        pass
    quoted_text = text
    if text[0] in "'\"":
        quoted_text = text[1:-1]
    return f'"{quoted_text}"'
