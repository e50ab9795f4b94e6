"""Write commands in the form in which this process was started, so that a person can paste them.

After `hpsearch JOB KEY=VALUE` they are `hpsearch` commands. After `mlflow run` they are
`mlflow run` commands: `hpsearch.cli.project`, which `mlflow run` starts, leaves what it knows of
that command in an environment variable. After a call in Python, settings are its arguments.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from hpsearch.secrets_in_text import has_secret, without_login

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


# Settings with these names hold text, though their default may be null.
_TEXTS = (
    *("path", "uri", "url", "name", "experiment"),
    *("study", "from_study", "warm_start", "warm_storage", "registered_model"),
)
# The parameter of `mlflow run` that holds further words of the hpsearch command.
OVERRIDES = "overrides"
_forms: list[Callable[[str], str]] = []


@dataclass(frozen=True)
class Parameter:
    """A parameter of an entry point in MLproject.

    Attributes:
        name: Its name, such as `trials`.
        key: The key of the configuration that it sets, such as `budget.n_trials`.
        default: Its default as text; None where it must be given.
    """

    name: str
    key: str
    default: str | None


@dataclass(frozen=True)
class Project:
    """The `mlflow run` command that has started this process.

    Attributes:
        file: The path of MLproject.
        options: The words after `mlflow run`, without entry point and parameters.
        run_id: The run that `mlflow run` has made.
    """

    file: str
    options: Sequence[str]
    run_id: str | None
    VARIABLE: ClassVar[str] = "HPSEARCH_PROJECT"

    @classmethod
    def of_this_process(cls) -> Project | None:
        """Return the command that has started this process; None where it was no `mlflow run`."""
        told = os.environ.get(cls.VARIABLE)
        if told is None:
            return None
        return cls(**json.loads(told))

    def remember(self) -> None:
        """Tell this process, and those that it starts, of the command."""
        os.environ[self.VARIABLE] = json.dumps(asdict(self))

    def parameters(self, entry_point: str) -> list[Parameter]:
        """Return the parameters of an entry point that set a key of the configuration.

        MLproject's command has them as `--KEY {NAME}`.
        """
        found = _entry_points(self.file)[entry_point]
        pairs = re.findall(r"--(\S+) \{(\w+)\}(?=\s|$)", found["command"])
        parameters = []
        for key, name in pairs:
            default = found["parameters"][name].get("default")
            if default is not None:
                default = str(default)
            parameters.append(Parameter(name, key, default))
        return parameters

    def command(self, job: str, settings: Sequence[str]) -> str:
        """Return the `mlflow run` command of a job with settings, each of Hydra's form KEY=VALUE.

        What no parameter of `mlflow run` can hold stands in the parameter `overrides`.
        """
        entry_point = _entry_point_of(job)
        words = ["mlflow", "run", *map(_without_token, self.options)]
        if entry_point != "main":
            words += ["-e", entry_point]
        names = {item.key: item.name for item in self.parameters(entry_point)}
        others = []
        for setting in settings:
            key, text = _as_parameter(setting, settings, names)
            if text is None:
                others.append(setting)
                continue
            words += ["-P", f"{names.get(key, key)}={text}"]
        if others:
            # Hydra reads options behind all overrides.
            others.sort(key=lambda word: word.startswith("-"))
            words += ["-P", f"{OVERRIDES}={shlex.join(others)}"]
        return shlex.join(words)

    def in_its_words(self, sentence: str) -> str:
        """Return a sentence in which settings are written as `mlflow run` takes them.

        `budget.n_trials=30` becomes `-P trials=30`, `study.name=NAME` becomes `-P study.name=NAME`,
        and `++KEY=VALUE` becomes `-P overrides='++KEY=VALUE'`. A command within the sentence has
        this form already.
        """
        for parameter in self.parameters("main"):
            if "." in parameter.key:
                key = re.escape(parameter.key)
                alone = rf"(?<![\w.+])(?<!-P ){key}="
                sentence = re.sub(alone, f"-P {parameter.name}=", sentence)
                sentence = re.sub(rf"(?<![\w.+]){key}(?![\w.=]|\.\w)", parameter.name, sentence)
        # Advice holds a word in capitals in place of a value, or a list of choices.
        key_alone = r"(?<![\w.+~/@'\"-])(?<!-P )"
        advised = rf"{key_alone}([a-z][a-z_./0-9]*=)(?=[A-Z]{{3,}}\b|\[\.\.\.\])"
        sentence = re.sub(advised, r"-P \1", sentence)
        for word in (r"\+\+[\w./@]+=[A-Z]+", r"--config-dir=DIR", r"--cfg job", r"--help"):
            free = rf"(?<!overrides=)(?<!overrides=')(?<![\w=]){word}\b"
            sentence = re.sub(free, lambda found: f"-P {OVERRIDES}='{found[0]}'", sentence)
        return sentence.replace("add -m to run one search", "give -e sweep to run one search")


def command(job: str, *settings: str) -> str:
    """Return the command that starts a job in the form of this process's own command.

    Args:
        job: The name of the job; `doctor` is followed by a command of its own, `doctor sync`.
        settings: Settings as Hydra reads them, `KEY=VALUE`, after options, `--OPTION=VALUE`.
    """
    project = Project.of_this_process()
    if project is not None:
        job, _, command_of_doctor = job.partition(" ")
        if command_of_doctor:
            settings = (f"command={command_of_doctor}", *settings)
        return project.command(job, settings)
    return f"{_program()} {job} {shlex.join(settings)}".rstrip()


@contextmanager
def speaking(form: Callable[[str], str]) -> Iterator[None]:
    """Give sentences within the block a form: `form` returns a sentence with settings in it."""
    _forms.append(form)
    try:
        yield
    finally:
        _forms.pop()


def in_form(sentence: str) -> str:
    """Return a sentence in which settings have the form in which this process was asked.

    It is that of its own command, or the form of the innermost block `speaking`.
    """
    if _forms:
        return _forms[-1](sentence)
    project = Project.of_this_process()
    if project is None:
        return sentence
    return project.in_its_words(sentence)


def has_to_be_added(word: str, words: Sequence[str]) -> bool:
    """Return whether the commands of hpsearch write `++` before a setting by themselves.

    They do so for bounds, and for settings of an architecture of the person's own, since conf need
    not list these.

    Args:
        word: The setting, `KEY=VALUE`.
        words: All words of the command.
    """
    if word.startswith("space.bounds."):
        return True
    is_of_arch = word.startswith("arch.") and not word.startswith("arch._")
    return is_of_arch and "arch=own" in words


def installing(extra: str) -> str:
    """Return the command that installs an extra of hpsearch.

    hpsearch that runs from a clone is installed from there; otherwise pip knows it by its name.
    """
    folder = Path(__file__).resolve().parents[2]
    if (folder / "pyproject.toml").exists() and (folder / "conf").is_dir():
        return shlex.join(["pip", "install", "-e", f"{folder}[{extra}]"])
    return f"pip install 'hpsearch[{extra}]'"


def quoted(text: str) -> str:
    """Return a text in quotes, which Hydra reads as this text."""
    # Importing this takes a quarter of a second, which commands need only at their end.
    from hydra.core.override_parser.types import Quote, QuotedString  # noqa: PLC0415

    return QuotedString(text, Quote.single).with_quotes()


def as_text(text: str) -> str:
    """Return a text as Hydra reads it in a setting, in quotes only where it needs them."""
    override = _override(text)
    if override is None or override.is_sweep_override() or override.value() != text:
        return quoted(text)
    return text


def look(
    uri: str,
    experiment_id: str,
    run_id: str,
    part: str = "",
) -> str:
    """Return what shows a run: the link of an MLflow server, else the command that starts one.

    Args:
        uri: The address of the MLflow store.
        experiment_id: The experiment of the run.
        run_id: The run.
        part: The part of the run's page that the link opens, such as `artifacts/report.html`.
    """
    if uri.startswith(("http://", "https://")):
        path = f"experiments/{experiment_id}/runs/{run_id}/{part}".rstrip("/")
        page = f"{path}?workflowType=machine_learning"
        server = re.split("[?#]", without_login(uri))[0]
        return f"{server.rstrip('/')}/#/{page}"
    return f"mlflow ui --backend-store-uri {store_in_shell(uri)}"


def store_in_shell(uri: str) -> str:
    """Return the address of an MLflow store as a command of a shell has it.

    An address with a secret can only come from MLFLOW_TRACKING_URI. The command takes it from
    there, and a shell that lacks the variable says so.
    """
    if has_secret(uri):
        return '"${MLFLOW_TRACKING_URI:?must be set as it was for the search}"'
    return shlex.quote(uri)


def _without_token(word: str) -> str:
    """Return a word without the login of a project's URL, where that login has a secret."""
    if has_secret(word):
        return without_login(word)
    return word


def _program() -> str:
    """Return the words that start hpsearch in the person's shell."""
    started = Path(sys.argv[0])
    found = shutil.which("hpsearch")
    if started.name == "hpsearch" and started.exists():
        if found is not None and started.samefile(found):
            return "hpsearch"
        return shlex.quote(str(started))
    if started.name == "__main__.py" or found is None:
        return "python -m hpsearch"
    return "hpsearch"


def _entry_point_of(job: str) -> str:
    if job == "search":
        return "main"
    return job


def _as_parameter(
    setting: str,
    settings: Sequence[str],
    names: Mapping[str, str],
) -> tuple[str, str | None]:
    """Return the key and the text of a setting as `mlflow run` passes them.

    The text is None where a parameter of `mlflow run` cannot hold the setting.

    Args:
        setting: The setting as hpsearch takes it.
        settings: All settings of the command.
        names: The names of the entry point's parameters by their keys.
    """
    key, _, value = setting.partition("=")
    bare = setting.removeprefix("++")
    if bare != setting and (has_to_be_added(bare, settings) or key[2:] in names):
        key = key[2:]
    # MLflow takes these names of parameters.
    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)*", key, re.ASCII):
        return key, None
    text = _unquoted(value)
    if text is None or (text != value and not _is_text_when_bare(key, text)):
        return key, None
    return key, text


def _is_text_when_bare(key: str, text: str) -> bool:
    """Return whether a text without quotes is the value of `-P KEY=TEXT`.

    `hpsearch.cli.project` reads numbers, lists and mappings as Hydra does, but for settings that
    always hold text.
    """
    if text.lower() in ("", "null"):
        return False
    if holds_text(key):
        return True
    override = _override(text)
    if override is None:
        return True
    if override.is_sweep_override():
        return False
    value = override.value()
    return isinstance(value, str) and value == text


def holds_text(key: str) -> bool:
    """Return whether the name of a setting says that it holds text."""
    return key.rpartition(".")[2] in _TEXTS


def _unquoted(value: str) -> str | None:
    """Return the text that Hydra reads in a quoted value; any other value as it is.

    It is None where the value has quotes and cannot be read.
    """
    quote = value[:1]
    if quote not in ("'", '"') or not value.endswith(quote):
        return value
    override = _override(value)
    if override is None:
        return None
    return str(override.value())


def _override(value: str) -> Override | None:
    """Return what Hydra reads in a value; None where it cannot be read."""
    # Importing this takes a quarter of a second, which commands need only at their end.
    from hydra.core.override_parser.overrides_parser import OverridesParser  # noqa: PLC0415
    from hydra.errors import HydraException  # noqa: PLC0415

    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None


@cache
def _entry_points(file: str) -> dict[str, Any]:
    text = Path(file).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["entry_points"]
    return found


def option_words(words: Sequence[str]) -> list[str]:
    """Return the words after `mlflow run` without entry point, parameters and names of the run.

    Args:
        words: The words of an `mlflow` command, from `run` on.
    """
    dropped = {"-e", "--entry-point", "-P", "--param-list", "--run-id", "--run-name"}
    kept = []
    for name, value in _options(words[1:]):
        if name in dropped:
            continue
        kept.append(name)
        if value is not None:
            kept.append(value)
    return kept


def parameter_words(words: Sequence[str]) -> list[str]:
    """Return the `NAME=VALUE` of each parameter among the words after `mlflow run`.

    Args:
        words: The words of an `mlflow` command, from `run` on.
    """
    found = []
    for name, value in _options(words[1:]):
        if name in ("-P", "--param-list") and value is not None:
            found.append(value)
    return found


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each option with its value; None where a word has no value of its own."""
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        is_long = word.startswith("--")
        if is_long and "=" in word:
            name, _, value = word.partition("=")
            yield name, value
        elif word.startswith("-") and not is_long and len(word) > 2:
            yield word[:2], word[2:]
        elif word.startswith("-") and word != "--build-image" and remaining:
            yield word, remaining.pop(0)
        else:
            yield word, None
