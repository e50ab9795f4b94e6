"""An error in a person's own code is told with its message and the person's own line."""

import sys
from importlib import import_module
from pathlib import Path

import keras
import numpy as np
import pytest

from hpsearch.models.own_code import is_own_file
from hpsearch.models.own_error import described

CODE = """
import keras
from keras import ops


def missing():
    sizes = {"narrow": 8}
    return sizes["wide"]


class Deep(keras.layers.Layer):
    def call(self, inputs):
        return self.below(inputs)

    def below(self, inputs):
        raise ValueError("no weights\\nfor this")


def loss(labels, probs):
    import numpy

    return numpy.mean(probs)


def rethrown():
    try:
        missing()
    except KeyError as error:
        raise RuntimeError("the sizes are wrong") from error
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_mistakes.py").write_text(CODE)
    sys.path.insert(0, str(folder))
    yield import_module("own_mistakes")
    sys.path.remove(str(folder))


def error_of(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (any error is described)
        call()
    return caught.value


def place(own, number, text):
    return f"({own.__file__}, line {number}: {text})"


def test_it_names_the_innermost_own_line(own):
    said = described(error_of(own.missing))
    assert said == f"""KeyError: 'wide' {place(own, 8, 'return sizes["wide"]')}"""


def test_it_names_the_line_of_what_caused_an_error(own):
    said = described(error_of(own.rethrown))
    assert said.startswith("RuntimeError: the sizes are wrong (")
    assert said.endswith(place(own, 8, 'return sizes["wide"]'))


def test_an_error_that_passes_through_keras_is_one_line_with_its_reason(own):
    said = described(error_of(lambda: own.Deep()(np.zeros((1, 2), "float32"))))
    assert said.startswith("ValueError: Exception encountered when calling Deep.call(): no weights")
    assert place(own, 16, 'raise ValueError("no weights\\nfor this")') in said
    assert "\n" not in said


def test_the_path_is_shown_from_the_current_folder(own, monkeypatch):
    monkeypatch.chdir(Path(own.__file__).parent)
    assert "(own_mistakes.py, line 8: " in described(error_of(own.missing))


def test_an_error_of_a_graph_is_told_without_the_node(own):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has graphs")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    labels = np.array([0, 7])
    said = described(error_of(lambda: model.fit(np.zeros((2, 2)), labels, verbose=0)))
    assert "Received a label value of 7 which is outside the valid range of [0, 3)" in said
    assert "Detected at node" not in said
    assert len(said) < 600
    model.compile("sgd", own.loss)
    said = described(error_of(lambda: model.fit(np.zeros((2, 2)), labels, verbose=0)))
    assert place(own, 22, "return numpy.mean(probs)") in said


@pytest.mark.parametrize(
    "error",
    [RuntimeError(), ValueError("x" * 5000), OSError(28, "No space left on device"), KeyError("a")],
)
def test_any_error_is_one_short_line(error):
    said = described(error)
    assert said.startswith(type(error).__name__)
    assert "\n" not in said
    assert len(said) < 400


def test_files_of_libraries_and_of_this_project_are_not_own(own, tmp_path):
    code = tmp_path / "new.py"
    code.write_text("")
    assert is_own_file(str(code))
    assert is_own_file("/tmp/ipykernel_12/345.py")
    for name in (keras.__file__, is_own_file.__code__.co_filename, "<string>", json_file()):
        assert not is_own_file(name)


def json_file():
    return import_module("json").__file__
