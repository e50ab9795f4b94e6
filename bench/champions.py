"""Make the studies of recorded champions again, with one trial each: the hyperparameters that a
long search has found.

    python bench/champions.py elu batch_norm selu alpha_dropout data.path=FOLDER

Words without = are the architectures, the others overrides of the main job. The studies are made in
the current folder, as a search leaves them, so that `hpsearch compare` and `hpsearch ablate` find
them there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from results import HYPERPARAMETERS
from rows import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Search each study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+")
    parser.add_argument(
        "--champions", type=Path, default=ROOT / "docs" / "results" / "cifar10.json"
    )
    given = parser.parse_args()
    champions = json.loads(given.champions.read_text())["champions"]
    found = {champion["model"].partition("-")[2]: champion for champion in champions}
    overrides = [word for word in given.words if "=" in word]
    for arch in (word for word in given.words if "=" not in word):
        fixed = [f"space.bounds.{key}={found[arch][key]}" for key in HYPERPARAMETERS]
        command = [
            sys.executable,
            "-m",
            "hpsearch",
            "search",
            f"arch={arch}",
            "budget.n_trials=1",
            *fixed,
            *overrides,
        ]
        subprocess.run(command, env=ENVIRONMENT, check=True)


if __name__ == "__main__":
    main()
