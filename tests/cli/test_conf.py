"""conf/ is complete and true: each choice builds what it says, and each setting is told in a
comment or by its name.
"""

import re
from functools import partial
from pathlib import Path

import keras
import numpy as np
import optuna
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from keras_tuner.applications import HyperResNet
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import RandomSampler, TPESampler

from hpsearch.cli import entry
from hpsearch.models.conv import ConvNet
from hpsearch.models.dense import DenseNet
from hpsearch.models.sparse import L1, GroupLasso, Magnitude
from hpsearch.space.space import Space
from hpsearch.study import storage
from hpsearch.study.pruners import Hyperband, Promoting
from hpsearch.study.sampling import Grid, Qmc, SeededSampler
from hpsearch.training.schedules import Constant, Cosine, OneCycle, ReduceOnPlateau
from hpsearch.training.trainer import Trainer

CONF = Path(__file__).parents[2] / "conf"
NEEDED = {
    "data=npz": ["data.path=mine.npz"],
    "arch=own": ["arch._target_=keras_tuner.applications.HyperXception"],
    "storage=postgres": ["storage.url=postgresql+psycopg://me@host/db"],
}

ROOTS = {"ablation": "ablate"}  # groups that the search does not have
# What the choices of a group build.
BUILT = {
    "optimizer": {
        "adam": keras.optimizers.Adam,
        "nadam": keras.optimizers.Nadam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": keras.optimizers.SGD,
    },
    "pruner": {
        "hyperband": Hyperband,
        "median": MedianPruner,
        "none": NopPruner,
        "promoting": Promoting,
    },
    "schedule": {
        "constant": Constant,
        "cosine": Cosine,
        "one_cycle": OneCycle,
        "reduce_on_plateau": ReduceOnPlateau,
    },
    "sparsity": {"group_lasso": GroupLasso, "l1": L1, "magnitude": Magnitude},
    "storage": {
        "journal": storage.journal,
        "postgres": storage.postgres,
        "sqlite": storage.sqlite,
    },
    "trainer": {"alone": Trainer},
}
SAMPLERS = {"grid": Grid, "qmc": Qmc, "random": RandomSampler, "tpe": TPESampler}
IN_NEED_OF_JAX = ("hpsearch.training.fused.",)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("search", list(overrides))


@pytest.mark.parametrize(
    "choice",
    [
        f"{group.name}={name}"
        for group in CONF.iterdir()
        if group.is_dir()
        for name in choices(group.name)
    ],
)
def test_every_choice_of_every_group_composes_whole(choice, tmp_path, monkeypatch):
    root = ROOTS.get(choice.partition("=")[0], "search")
    images, labels = np.zeros((4, 8, 8)), np.arange(4) % 2
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels)
    monkeypatch.chdir(tmp_path)
    entry.check(root, [choice, *NEEDED.get(choice, [])])


@pytest.mark.parametrize("arch", [name for name in choices("arch") if name not in ("dense", "own")])
def test_every_architecture_is_a_hypermodel_with_bounds_of_its_own_space(arch):
    config = composed(f"arch={arch}")
    others = {"cnn": ConvNet, "hyper_resnet": HyperResNet}
    assert instantiate(config.arch).func is others.get(arch, DenseNet)
    assert isinstance(instantiate(config.space), Space)


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group in BUILT for choice in BUILT[group]]
)
def test_every_choice_builds_what_its_name_says(group, choice):
    needed = NEEDED.get(f"{group}={choice}", [])
    made = instantiate(composed(f"{group}={choice}", *needed)[group])
    kind = made.func if isinstance(made, partial) else type(made)
    assert kind is BUILT[group][choice]


def test_what_every_choice_builds_is_listed_here():
    listed = {group: sorted(BUILT[group]) for group in BUILT}
    assert listed == {group: choices(group) for group in BUILT} | {"trainer": ["alone"]}
    assert sorted(SAMPLERS) == choices("sampler")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_within_the_space(sampler):
    config = composed(f"sampler={sampler}")
    made = instantiate(config.sampler, _convert_="all")(root_seed=3)
    assert isinstance(made, SeededSampler)
    inner = made.of_ticket("s", 0)
    assert type(inner) is SAMPLERS[sampler]
    trial = optuna.create_study(sampler=made, study_name="s").ask()
    rules = instantiate(config.space).rules
    assert rules.keys() == {"learning_rate", "momentum", "dropout_rate"}
    for name, rule in rules.items():
        assert rule.low <= rule.draw(trial, name) <= rule.high


@pytest.mark.parametrize("path", sorted((CONF / "arch").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_architecture_says_in_its_first_line_what_it_is(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF))
)
def test_every_target_can_be_imported_and_no_value_is_set_twice(path):
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path.name} sets a key twice"
            return super().construct_mapping(node, deep)

    text = path.read_text()
    assert yaml.load(text, Strict), f"{path.name} is empty"
    targets = set(re.findall(r"_target_: ([\w.]+)", text))
    for target in targets:
        if target.startswith(IN_NEED_OF_JAX):
            pytest.importorskip("jax")
        assert callable(get_object(target))


def test_targets_are_found_wherever_a_file_has_them():
    texts = [path.read_text() for path in CONF.rglob("*.yaml")]
    found = {target for text in texts for target in re.findall(r"_target_: ([\w.]+)", text)}
    assert {
        "hpsearch.jobs.search.Search",
        "hpsearch.data.datasets.cifar10",
        "hpsearch.training.fused.FusedTrainer",
        "keras.layers.AlphaDropout",
        "hpsearch.models.initializers.Small",
        "hpsearch.evaluation.out_of_distribution.OutOfDistribution",
    } <= found
