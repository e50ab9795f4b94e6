"""conf/ is complete and true: each choice builds what it says, and each setting is told in a
comment or by its name.
"""

from pathlib import Path

import keras_tuner
import optuna
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from hpsearch.cli import entry
from hpsearch.space.space import Space
from hpsearch.study.sampling import SeededSampler

CONF = Path(__file__).parents[2] / "conf"
NEEDED = {
    "data=npz": ["data.path=mine.npz"],
    "arch=own": ["arch._target_=mine.Net"],
    "storage=postgres": ["storage.url=postgresql+psycopg://me@host/db"],
}

ROOTS = {"ablation": "ablate"}  # groups that the search does not have


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
def test_every_choice_of_every_group_composes_whole(choice):
    root = ROOTS.get(choice.partition("=")[0], "search")
    entry.check(root, [choice, *NEEDED.get(choice, [])])


@pytest.mark.parametrize("arch", [name for name in choices("arch") if name not in ("dense", "own")])
def test_every_architecture_is_a_hypermodel_with_bounds_of_its_own_space(arch):
    config = composed(f"arch={arch}")
    assert issubclass(instantiate(config.arch).func, keras_tuner.HyperModel)
    assert isinstance(instantiate(config.space), Space)


@pytest.mark.parametrize("pruner", choices("pruner"))
def test_every_pruner_is_optunas(pruner):
    assert isinstance(instantiate(composed(f"pruner={pruner}").pruner), optuna.pruners.BasePruner)


@pytest.mark.parametrize("sampler", choices("sampler"))
def test_every_sampler_draws_within_the_space(sampler):
    config = composed(f"sampler={sampler}")
    made = instantiate(config.sampler, _convert_="all")(root_seed=3)
    assert isinstance(made, SeededSampler)
    trial = optuna.create_study(sampler=made, study_name="s").ask()
    for rule, name in ((rule, name) for name, rule in instantiate(config.space).rules.items()):
        assert rule.low <= rule.draw(trial, name) <= rule.high


@pytest.mark.parametrize("path", sorted((CONF / "arch").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_architecture_says_in_its_first_line_what_it_is(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF))
)
def test_targets_of_ours_exist_and_no_value_is_set_twice(path):
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path.name} sets a key twice"
            return super().construct_mapping(node, deep)

    yaml.load(path.read_text(), Strict)
