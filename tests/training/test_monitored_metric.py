"""Which way a metric is better: the metric says it or a person does, whatever its name is."""

import dataclasses

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpsearch.errors import ConfigError, ModelError
from hpsearch.models.architecture import build_model
from hpsearch.study.direction import Direction
from hpsearch.study.study import number_of
from hpsearch.training.epochs import Fitted
from hpsearch.training.monitored_metric import directed
from hpsearch.training.settings import Training
from small_training import SETTINGS, search_data
from workplace import SMALL

SPARSE, ONEHOT = "sparse_categorical_crossentropy", "categorical_crossentropy"


@keras.saving.register_keras_serializable()
class Distance(keras.metrics.Mean):
    """A metric of one's own that does not say which way it is better."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        said = keras.ops.cast(keras.ops.argmax(y_pred, -1), "float32")
        off = keras.ops.not_equal(said, keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "float32"))
        return super().update_state(keras.ops.cast(off, "float32"))


@keras.saving.register_keras_serializable()
class DirectedDistance(Distance):
    """One that does, as those of Keras."""

    def __init__(self, name="distance", dtype=None):
        super().__init__(name, dtype)
        self._direction = "down"


@keras.saving.register_keras_serializable()
def surprise(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


METRICS = {
    "directed": lambda: [DirectedDistance()],
    "undirected": lambda: [Distance(name="distance")],
    "function": lambda: [surprise],
    "crossentropy": lambda: [SPARSE],
    "nameless": lambda: [
        keras.metrics.SparseTopKCategoricalAccuracy(2, name="top"),
        keras.metrics.Mean,
    ],
    "auc": lambda: [keras.metrics.AUC()],
}


class Net(keras_tuner.HyperModel):
    """A small net with metrics of `METRICS`."""

    def __init__(self, input_shape, n_classes, metrics="crossentropy", loss=SPARSE):
        super().__init__()
        self.shape, self.n_classes, self.metrics, self.loss = (
            input_shape,
            n_classes,
            METRICS[metrics],
            loss,
        )

    def build(self, hp):
        layers = [keras.Input(self.shape), keras.layers.Flatten(), keras.layers.Rescaling(1 / 16)]
        model = keras.Sequential(
            [*layers, keras.layers.Dense(self.n_classes, activation="softmax")]
        )
        rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
        model.compile(keras.optimizers.Adam(rate), self.loss, metrics=self.metrics())
        return model


class NetWithItsOwnFit(Net):
    """Its fit reports what the model does not know of."""

    def fit(self, hp, model, *args, callbacks=(), **kwargs):
        class Adds(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["val_profit"] = 1.0 + epoch

        return model.fit(*args, callbacks=[Adds(), *callbacks], **kwargs)


def settings(monitor="val/loss", direction=None):
    return Training(**SETTINGS | {"monitor": monitor, "direction": direction})


def net(metrics, weighted=None, loss=SPARSE, cls=keras.Sequential):
    layers = keras.layers
    model = cls([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")])
    model.compile("adam", loss, metrics=metrics, weighted_metrics=weighted)
    return model


def found(model, monitor, direction=None, hypermodel=None):
    """Return the direction of a metric, None where nothing says it."""
    hypermodel = hypermodel or Net((4, 4, 1), 3)
    try:
        return directed(settings(monitor, direction), hypermodel, model, search_data()).direction
    except ConfigError as error:
        if "Nothing says" not in str(error):
            raise
        return None


K = keras.metrics
TABLE = [
    ([], "loss", "minimize"),
    (["accuracy"], "accuracy", "maximize"),
    (["acc"], "acc", "maximize"),
    ([SPARSE], SPARSE, "minimize"),
    ([K.SparseCategoricalCrossentropy()], SPARSE, "minimize"),
    ([K.SparseCategoricalCrossentropy(name="accuracy")], "accuracy", "minimize"),
    ([K.SparseCategoricalAccuracy(name="val_loss")], "val_loss", "maximize"),
    ([keras.losses.sparse_categorical_crossentropy], SPARSE, "minimize"),
    ([K.sparse_top_k_categorical_accuracy], "sparse_top_k_categorical_accuracy", "maximize"),
    ([K.SparseTopKCategoricalAccuracy(2, name="top2_error")], "top2_error", "maximize"),
    ([surprise], "surprise", None),
    ([Distance(name="distance")], "distance", None),
    ([DirectedDistance()], "distance", "minimize"),
    ([SPARSE, DirectedDistance(), "accuracy"], "accuracy", "maximize"),
]
ONEHOT_TABLE = [
    (["mae"], "mae", "minimize"),
    (["mean_absolute_error"], "mean_absolute_error", "minimize"),
    (["AUC"], "AUC", "maximize"),
    ([K.AUC(name="area")], "area", "maximize"),
    ([K.CosineSimilarity()], "cosine_similarity", "maximize"),
    ([K.R2Score()], "r2_score", "maximize"),
    ([K.MeanMetricWrapper(keras.losses.Huber(), name="gain")], "gain", "minimize"),
    ([K.TruePositives(name="hits")], "hits", None),
    ([K.Precision(class_id=1, name="precision_1")], "precision_1", "maximize"),
    (["kl_divergence"], "kl_divergence", "minimize"),
    ([K.F1Score()], "f1_score/2", "maximize"),
    ([K.FBetaScore(average="macro")], "fbeta_score", "maximize"),
]


@pytest.mark.parametrize(("metrics", "name", "direction"), TABLE)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_metric_says_which_way_it_is_better(metrics, name, direction, weighted):
    model = net(*(([], metrics) if weighted else (metrics,)))
    before = model.get_weights()
    assert found(model, f"val/{name}") == direction
    assert found(model, f"train/{name}", "maximize") == "maximize"
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(("metrics", "name", "direction"), ONEHOT_TABLE)
def test_so_does_one_of_labels_in_rows(metrics, name, direction):
    assert found(net(metrics, loss=ONEHOT), f"val/{name}") == direction


def test_a_metric_of_several_numbers_is_none_to_monitor_but_each_of_them_is():
    with pytest.raises(
        ConfigError,
        match=r"val/f1_score is no metric of this model. Did you mean 'val/f1_score/\d'\?",
    ):
        found(net([K.F1Score()], loss=ONEHOT), "val/f1_score")


def test_names_are_those_of_the_logs():
    metrics = [surprise, "accuracy", K.SparseCategoricalAccuracy(), DirectedDistance()]
    model, data = net(metrics, ["accuracy", "accuracy", SPARSE]), search_data()
    logs = model.fit(data.train.inputs, data.train.targets, verbose=0).history
    for name in set(logs) - {"surprise"}:
        assert found(net(metrics, ["accuracy", "accuracy", SPARSE]), f"val/{name}") is not None
    with pytest.raises(ConfigError) as refused:
        found(net(metrics, ["accuracy", "accuracy", SPARSE]), "val/nothing")
    assert {f"train/{name}" for name in logs} == {
        word.strip(". ")
        for word in str(refused.value).split("Valid: ")[1].split(",")
        if "train/" in word
    }


def test_metrics_and_losses_of_many_outputs():
    image = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(image)
    a, b = (keras.layers.Dense(3, activation="softmax", name=name)(flat) for name in "ab")
    model = keras.Model(image, [a, b])
    model.compile("adam", SPARSE, metrics=[["accuracy"], [SPARSE]])
    assert found(model, "val/a_accuracy") == "maximize"
    assert found(model, f"val/b_{SPARSE}") == "minimize"
    assert found(model, "val/a_loss") == "minimize"


def test_the_refusal_names_the_metric_and_both_settings():
    with pytest.raises(ConfigError) as refused:
        directed(settings("val/surprise"), Net((4, 4, 1), 3), net([surprise]), search_data())
    assert str(refused.value) == (
        "Nothing says whether more or less of training.monitor=val/surprise is better: "
        "give training.direction=minimize or training.direction=maximize."
    )


@pytest.mark.parametrize(
    "metrics", [["accuracy"], [K.SparseCategoricalAccuracy(name="accuracy")], [surprise]]
)
def test_an_unknown_metric_is_refused_before_the_first_epoch(metrics):
    with pytest.raises(
        ConfigError, match=r"val/los is no metric of this model. Did you mean 'val/loss'\?"
    ):
        found(net(metrics), "val/los")


def test_metrics_that_do_not_fit_the_labels_are_refused():
    with pytest.raises(ModelError, match="The metrics of the model cannot be computed: "):
        found(net([K.CategoricalAccuracy(), "no_such_metric"]), "val/no_such_metric")


class OwnStep(keras.Sequential):
    """A model that reports what it wants."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hits = keras.metrics.SparseCategoricalAccuracy(name="hits")

    def train_step(self, data):
        return {"profit": 1.0, **super().train_step(data)}


def test_what_a_step_of_ones_own_reports_is_left_to_the_first_epoch():
    assert found(net([], cls=OwnStep), "train/profit", "maximize") == "maximize"
    assert found(net([], cls=OwnStep), "val/hits") == "maximize"
    with pytest.raises(
        ConfigError, match=r"Nothing says .*=train/prfit is better.* Valid: train/hits, train/loss"
    ):
        directed(settings("train/prfit"), Net((4, 4, 1), 3), net([], cls=OwnStep), search_data())
    with pytest.raises(
        ConfigError, match=r"train/prfit is no metric of this fit. Did you mean 'train/profit'\?"
    ):
        Fitted().add(
            {"train/profit": 1.0, "time/epoch_s": 1.0}, "train/prfit", direction=Direction.MAXIMIZE
        )


def test_a_direction_is_one_of_two_and_never_guessed():
    with pytest.raises(
        ConfigError, match=r"There is no training.direction=maximise. Did you mean 'maximize'\?"
    ):
        settings(direction="maximise")
    with pytest.raises(ValueError, match="Expected a direction of val/accuracy"):
        assert settings("val/accuracy").goal
    assert settings().goal == Direction.MINIMIZE
    assert settings(direction="maximize").goal == Direction.MAXIMIZE
    assert (
        dataclasses.replace(settings("val/accuracy"), direction="maximize").goal
        == Direction.MAXIMIZE
    )


def test_metrics_without_a_name_are_called_alike_in_every_model():
    made = Net((4, 4, 1), 3, "auc", ONEHOT)
    for _ in range(2):
        model = build_model(made, keras_tuner.HyperParameters())
        assert found(model, "val/auc") == "maximize"
    named = [K.Precision(class_id=i, name=f"precision_{i}") for i in (1, 2)]

    class Named(Net):
        def build(self, hp):
            return net([*named, K.AUC(), K.AUC(curve="PR")], loss=ONEHOT)

    for _ in range(2):
        model = build_model(Named((4, 4, 1), 3), keras_tuner.HyperParameters())
        for name in ("precision_1", "precision_2", "auc", "auc_1"):
            assert found(model, f"val/{name}") == "maximize"


SEARCHED = (
    *(word for word in SMALL if not word.startswith("arch.")),
    "data.n_train=300",
    "budget.n_trials=3",
)


def own(metrics, *words, net="Net"):
    return (
        "arch=own",
        f"arch._target_=test_monitored_metric.{net}",
        f"+arch.metrics={metrics}",
        *SEARCHED,
        *words,
    )


def ran(place, *words, **more):
    done = place.here(*words, **more)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def ended(study):
    return {number_of(t): t.value for t in study.trials if t.state == TrialState.COMPLETE}


@pytest.mark.parametrize(
    ("metrics", "monitor", "words", "direction"),
    [
        ("crossentropy", f"val/{SPARSE}", (), StudyDirection.MINIMIZE),
        ("auc", "val/auc", (f"+arch.loss={ONEHOT}",), StudyDirection.MAXIMIZE),
    ],
)
@pytest.mark.slow
def test_a_search_keeps_and_registers_what_is_best(metrics, monitor, words, direction, workplace):
    told = ran(workplace, *own(metrics, f"training.monitor={monitor}", "pruner=none", *words))
    study = workplace.study("digits-own")
    values = ended(study)
    assert study.directions == [direction]
    assert len(values) == 3
    pick = min if direction == StudyDirection.MINIMIZE else max
    best = pick(values, key=values.get)
    version = workplace.client.get_model_version("digits-own", "1")
    assert version.tags["hpsearch.trial"] == str(best)
    assert f"#{best}" in told
    runs = workplace.runs("trial")
    assert len(runs) == 3
    for run in runs:
        history = [m.value for m in workplace.client.get_metric_history(run.info.run_id, monitor)]
        assert run.data.metrics[f"best/{monitor}"] == pytest.approx(pick(history))


def test_nothing_is_made_where_nothing_says_the_direction(workplace):
    done = workplace.here(*own("function", "training.monitor=val/surprise"))
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Error: Nothing says whether more or less of training.monitor=val/surprise"
    )
    database = workplace.folder / "optuna.db"
    assert not database.exists() or optuna.get_all_study_names(f"sqlite:///{database}") == []
    assert workplace.runs("study") == []


@pytest.mark.slow
def test_a_study_goes_on_only_in_its_direction(workplace):
    words = own("undirected", "training.monitor=val/distance", "training.direction=maximize")
    ran(workplace, *words)
    study = workplace.study("digits-own")
    assert study.directions == [StudyDirection.MAXIMIZE]
    assert "training.direction" not in study.user_attrs["settings"]
    done = workplace.here(*words[:-1], "training.direction=minimize", "budget.n_trials=4")
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [
            "Error: Study digits-own was made to maximize val/distance, not to minimize; give "
            "study.name=NAME "
            "to start another one, or training.direction=maximize to go on with this one."
        ],
    )
    assert "goes on: 3 of 4" in ran(workplace, *words, "budget.n_trials=4")
    asked = ("study.name=digits-own", "training.monitor=val/distance")
    ran(workplace, *asked, script="doctor")
    assert "more is better" in _page(workplace)


def _page(place):
    ran(place, "study=digits-own", script="report")
    return "".join(path.read_text() for path in place.folder.glob("*.html"))


@pytest.mark.slow
def test_what_a_fit_of_ones_own_reports(workplace):
    words = own("crossentropy", "training.direction=maximize", net="NetWithItsOwnFit")
    ran(workplace, *words, "training.monitor=val/profit", "budget.n_trials=1")
    assert ended(workplace.study("digits-own")) == {0: 6.0}
    (run,) = workplace.runs("trial")
    assert {"trial_seed", "learning_rate"} <= run.data.params.keys(), (
        "MLflow refuses a parameter that comes twice"
    )
    done = workplace.here(*words, "training.monitor=val/profi", "study.name=other")
    assert done.returncode == 2
    assert (
        "training.monitor=val/profi is no metric of this fit. Did you mean 'val/profit'?"
        in done.stderr
    )


def test_an_ablation_asks_the_metric_before_it_makes_a_run(workplace):
    words = ("data=digits", "data.n_train=100", "training.epochs=1", "training.jit_compile=false")
    words += ("ablation=bias", "levels=[zeros]", "arch.n_hidden=1", "n_seeds=2")
    ran(workplace, *words, "training.monitor=val/accuracy", script="ablate")
    assert len(workplace.client.search_runs(["0"])) == 3  # the ablation and a cell of each seed
    done = workplace.here(*words, "training.monitor=val/acuracy", script="ablate")
    assert (done.returncode, len(workplace.client.search_runs(["0"]))) == (2, 3)
    assert "Did you mean 'val/accuracy'?" in done.stderr
