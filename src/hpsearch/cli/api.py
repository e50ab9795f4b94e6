"""Search from a notebook or script: `hpsearch.search` with arrays, `hpsearch.Search` with words.

A search is composed from the same parts as on the command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from hpsearch.backend import check_backend
from hpsearch.cli import entry
from hpsearch.cli.building import as_plain
from hpsearch.cli.command_line import as_overrides, check_values, composed
from hpsearch.cli.log import libraries_quiet
from hpsearch.cli.words import (
    Keywords,
    in_python,
    with_keywords,
    words_of,
    words_of_evaluation,
    written,
)
from hpsearch.command_form import in_form, speaking
from hpsearch.errors import ConfigError, DataError, HpsearchError
from hpsearch.standard_error import standard_error
from hpsearch.tracking.mlflow_settings import mlflow_settings_kept

if TYPE_CHECKING:
    # These import NumPy and Keras, and a typo must be answered before that.
    from keras_tuner import HyperModel

    from hpsearch.data.datasets import Arrays
    from hpsearch.data.split import Data
    from hpsearch.jobs.evaluate import Evaluated
    from hpsearch.jobs.search_result import SearchResult
    from hpsearch.tracking.registry import Version

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def _speaking_python(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Let what a function prints, and its errors, name settings as arguments in Python.

    A mistake is one sentence; the lines of this package that have led to it are left out of its
    traceback, which then ends at the person's own line.
    """

    @wraps(function)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with speaking(in_python):
            try:
                return function(*args, **kwargs)
            except HpsearchError as error:
                error.args = (in_form(str(error)),)
                told = error.with_traceback(None)
        raise told from None

    return call


class Search:
    """A search that is ready to run.

    Args:
        config: The composed configuration of `conf/search.yaml`.
        overrides: The overrides as they were typed, which are recorded with the study.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str]) -> None:
        self.config = config
        self.overrides = overrides

    @classmethod
    def compose(cls, *overrides: str) -> Search:
        """Return the search of a command line: `Search.compose("arch=selu", "data=digits")`.

        Raises:
            ConfigError: An override names a key, a choice or a file that does not exist.
            UserError: A value cannot be used, as far as that is known without a model.
        """
        search = cls._composed(*overrides)
        check_values("search", search.overrides)
        return search

    @classmethod
    def _composed(cls, *overrides: str) -> Search:
        """Return the search of a command line, whose values are not looked at."""
        entry.prepare_environment()
        words = as_overrides(overrides)
        return cls(composed("search", words), words)

    def run(self, console: Console | None = None) -> SearchResult:
        """Run the search, or the part of it that is missing, and return its result.

        Args:
            console: Where progress is shown; None takes standard output.

        Raises:
            UserError: A mistake that the person can put right, in one sentence.
            SearchError: The search ended without a usable model.
            KeyboardInterrupt: The person stopped it. The same search continues when it is run
                again.
        """
        return self._ran(entry.instantiate(self.config), console or Console(highlight=False))

    def _ran(
        self,
        job: Any,
        console: Console,
        arrays: Arrays | None = None,
    ) -> SearchResult:
        """Run the job that the configuration describes, and return its result.

        Args:
            job: The job.
            console: Where progress is shown.
            arrays: The data set that was given in Python; None where the configuration names it.
        """
        plain = as_plain(self.config)
        plain["overrides"] = list(self.overrides)
        import keras  # noqa: PLC0415 (it takes seconds, which a typo must not cost)

        with mlflow_settings_kept(), libraries_quiet():
            with standard_error.held_back():
                # Native code writes to the terminal when devices are first looked for.
                keras.distribution.list_devices()
            result: SearchResult = job.run(plain, console)
        return replace(result, evaluator=_Evaluator(self, arrays, console))


@dataclass(frozen=True)
class _Evaluator:
    """Evaluates a version that a search has registered, on the data set of the search.

    Attributes:
        search: The search.
        arrays: The data set that was given to it in Python; None where its configuration names it.
        console: Where the search was shown.
    """

    search: Search
    arrays: Arrays | None
    console: Console

    @_speaking_python
    def __call__(
        self,
        version: Version,
        uri: str,
        test_data: object,
        config: Mapping[str, object] | None,
        console: Console | None,
    ) -> Evaluated:
        """Evaluate a version; `SearchResult.evaluate` describes arguments and errors."""
        shown = self.console
        if console is not None:
            shown = _console(console)
        evaluated = self._evaluated(version, uri, test_data, config, shown)
        evaluated.show(shown)
        return evaluated

    def _evaluated(
        self,
        version: Version,
        uri: str,
        test_data: object,
        config: Mapping[str, object] | None,
        console: Console,
    ) -> Evaluated:
        from hpsearch.training.settings import use_precision  # noqa: PLC0415 (it imports Keras)

        name = written(version.name, "registered_model")
        words = [f"registered_model={name}", f"version={version.number}"]
        for word in self.search.overrides:
            if word.startswith(("--config-dir", "tracking")):
                words.append(word)
        composition = composed("evaluate", [*words, *words_of_evaluation(config)])
        data = self._data(test_data)
        if not data.has_test():
            raise DataError(
                "The search had no test data: give them here, result.evaluate(test_data=(x, y))."
            )
        plain = as_plain(composition)
        plain["data"] = as_plain(self.search.config.data)
        job = entry.instantiate(composition)
        job = replace(job, data=data, tracking=partial(job.tracking, uri=uri))
        # The search may have set another one. The command has this one, and so has the same result.
        use_precision("float32")
        with mlflow_settings_kept(), libraries_quiet():
            evaluated: Evaluated = job.run(plain, entry.instantiate, console)
        return evaluated

    def _data(self, test_data: object) -> Data:
        """Return the data set of the search, with another test part where one is given."""
        from hpsearch.data.given import with_test  # noqa: PLC0415 (it imports NumPy)

        data: Data = entry.instantiate(self.search.config.data)
        arrays = self.arrays or data.load()
        if test_data is not None:
            arrays = with_test(arrays, test_data)
        return replace(data, load=lambda: arrays)


@with_keywords
@_speaking_python
def search(
    build_model: object,
    x: object,
    y: object,
    *,
    validation_data: object = None,
    test_data: object = None,
    class_names: Sequence[str] | None = None,
    config: Mapping[str, object] | None = None,
    console: Console | None = None,
    **keywords: Unpack[Keywords],
) -> SearchResult:
    """Search the hyperparameters of a model on arrays, and return the result.

    The study, its trials and its runs are those of the command `search` with the same data in an
    .npz file. A search that was interrupted continues when it is called again. A setting that is
    None takes the default of its key in the configuration, which docs/configuration.md lists.

    Args:
        build_model: A function `build_model(hp)` that returns a compiled model, or a
            `keras_tuner.HyperModel` or its class.
        x: The training inputs, (N, ...).
        y: Their labels, (N,), or one-hot rows, (N, C).
        validation_data: A pair (x, y) that guides the search; None splits it off `x` and `y`.
        test_data: A pair (x, y) on which the best model is evaluated; None leaves this out.
        class_names: A name for each class; None takes the labels.
        config: Further settings of the configuration by their dotted keys.
        console: Where progress is shown; None takes standard output.
        **keywords: Settings.

    Raises:
        UserError: A mistake that the person can put right, in one sentence.
        SearchError: The search ended without a usable model.
        KeyboardInterrupt: The person stopped it.
    """
    shown = _console(console)
    entry.prepare_environment()
    check_backend()
    words = words_of(keywords, config)
    # The command line imports this module too, and needs no NumPy to answer a typo.
    from hpsearch.data.given import arrays_of  # noqa: PLC0415

    arrays = arrays_of(x, y, validation_data, test_data, class_names)
    return _searched(build_model, arrays, words, shown)


def _console(given: object) -> Console:
    """Return the console that was given, or one that writes to standard output."""
    if given is None:
        return Console(highlight=False)
    if not isinstance(given, Console):
        kind = type(given).__name__
        raise ConfigError(f"Expected console to be a rich.console.Console, received a {kind}.")
    return given


def _searched(
    build_model: object,
    arrays: Arrays,
    words: Sequence[str],
    console: Console,
) -> SearchResult:
    """Search with a model on arrays, with settings `KEY=VALUE`, and show the result."""
    factory = _factory(build_model)
    given = Search._composed(*_words_of_data(arrays), *_words_of_model(factory), *words)
    result = given._ran(_job(given.config, factory, arrays), console, arrays)
    call = "result.evaluate()"
    if arrays.x_test is None:
        call = "result.evaluate(test_data=(x, y))"
    elif result.evaluation is None:  # a model without dropout
        call = ""
    result.show_found(console, call)
    return result


def _maker(hypermodel: HyperModel) -> Callable[[], HyperModel]:
    """Return a function that returns a HyperModel, and that bears the name of its class."""

    def made() -> HyperModel:
        return hypermodel

    kind = type(hypermodel)
    made.__module__ = kind.__module__
    made.__qualname__ = kind.__qualname__
    return made


def _factory(build_model: object) -> partial[Any]:
    """Return what makes the HyperModel of each trial.

    Raises:
        ConfigError: It is neither a HyperModel nor a class or function that can make one.
    """
    with standard_error.held_back():
        import keras_tuner  # noqa: PLC0415 (a wrong keyword is answered before)

    if isinstance(build_model, keras_tuner.HyperModel):
        return partial(_maker(build_model))
    is_class = isinstance(build_model, type)
    is_code = isinstance(build_model, partial) or inspect.isroutine(build_model)
    if is_class:
        is_code = issubclass(cast("type", build_model), keras_tuner.HyperModel)
    if not is_code:
        kind = type(build_model).__name__
        raise ConfigError(
            "Expected the first argument to be a function build_model(hp) that returns a compiled "
            f"model, a keras_tuner.HyperModel or its class; received {build_model!r:.80}, a {kind}."
        )
    return partial(cast("Callable[..., Any]", build_model))


def _words_of_data(arrays: Arrays) -> list[str]:
    """Return the words that stand for the arrays."""
    from hpsearch.data.datasets import GIVEN_IN_PYTHON  # noqa: PLC0415 (it imports NumPy)

    path = written(GIVEN_IN_PYTHON, "data.path")
    words = ["data=npz", f"data.path={path}"]
    if arrays.x_train.ndim == 3:
        words.append("data.channel_axis=false")
    return words


def _words_of_model(factory: partial[Any]) -> list[str]:
    """Return the words that name the model, with the plain settings that a partial holds."""
    made = factory.func
    name = getattr(made, "__qualname__", type(made).__name__)
    target = written(f"{made.__module__}.{name}", "arch._target_")
    words = ["arch=own", f"arch._target_={target}"]
    for key, value in factory.keywords.items():
        try:
            words.append(f"+arch.{key}={written(value, key)}")
        except ConfigError:  # an object has no form in the configuration
            continue
    return words


def _is_of(
    factory: partial[Any],
    key: str,
    value: object,
) -> bool:
    """Return whether a recorded value is what a partial itself holds, in whatever type."""
    if key not in factory.keywords:
        return False
    return written(factory.keywords[key], key) == written(value, key)


def _job(
    config: DictConfig,
    factory: partial[Any],
    arrays: Arrays,
) -> Any:
    """Build the parts of a search, with the model and the arrays that a person has given."""
    keys = [key for key in map(str, config) if key not in ("_target_", "arch")]
    parts = entry.instantiate(OmegaConf.masked_copy(config, keys))
    from hpsearch.jobs.search import Search as Job  # noqa: PLC0415 (it imports Keras)

    settings = {}
    for key, value in as_plain(config.arch).items():
        if key not in ("_target_", "_partial_") and not _is_of(factory, key, value):
            settings[key] = value
    model = partial(factory, **settings)
    try:
        inspect.signature(model.func).bind_partial(*model.args, **model.keywords)
    except TypeError as error:
        raise ConfigError(f"arch cannot be built: {error}.") from error
    parts["arch"] = model
    parts["data"] = replace(parts["data"], load=lambda: arrays)
    return Job(**parts)
