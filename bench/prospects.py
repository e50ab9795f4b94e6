"""Check the report's advice against what more trials really brought: a study is told again from its
first trials.

    python bench/prospects.py sqlite:///optuna.db digits-selu --after 6,8

Nothing is trained. Each row forecasts the rest of the study, as the report would have done then,
and says what came.
"""

from __future__ import annotations

import argparse

import optuna

from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study_report.advice import Prospects
from hpsearch.study_report.searched import Searched


def first(study: optuna.Study, n: int) -> Searched:
    """Return a study as it was when `n` of its trials had finished or been pruned."""
    then = optuna.create_study(study_name=study.study_name, direction=study.direction)
    whole = searched(study)
    then.add_trials(whole.spent[:n])
    return searched(then)


def searched(study: optuna.Study) -> Searched:
    """Return a study as its reports see it."""
    direction = Direction.of(study)
    return Searched(study.study_name, study, Space({}), "value", direction, {}, "")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("storage")
    parser.add_argument("study")
    parser.add_argument("--after", default="8,16")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    whole = optuna.load_study(study_name=given.study, storage=given.storage)
    all_of_it = searched(whole)
    print(
        f"| after | best | further trials | expected gain | {1 - Prospects.LEVEL:.0%} interval | "
        f"brought | inside |"
    )
    print("|---|---|---|---|---|---|---|")
    for n in map(int, given.after.split(",")):
        then, rest = first(whole, n), len(all_of_it.spent) - n
        if rest < 1 or not Prospects.can_tell(then):
            print(f"| {n} | too few trials | | | | | |")
            continue
        gain, best = Prospects(then, seed=0).gain(rest), then.loss(then.ranked[0])
        brought = best - all_of_it.loss(all_of_it.ranked[0])
        inside = "yes" if gain.low - 1e-9 <= brought <= gain.high else "no"
        interval = f"{gain.low:.4f} to {gain.high:.4f}"
        print(
            f"| {n} | {best:.4f} | {rest} | {gain.expected:.4f} | {interval} | {brought:.4f} | "
            f"{inside} |"
        )


if __name__ == "__main__":
    main()
