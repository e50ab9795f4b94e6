"""Write docs/ablations.md and its figures from the ablations that an MLflow store holds.

    python bench/ablations.py sqlite:///mlflow.db --data cifar10

Run it where `hpsearch ablate` ran; nothing is trained. The newest finished run of each
ablation counts.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

INTRODUCTION = """# Ablations

One factor varies, all else stays; three seeds, the same for all arms, so that results are paired
by seed. Numbers are means over seeds with half the width of Student's 95 % interval; differences
are to the baseline, their intervals and p values corrected by Holm's method for the number of arms.
A claim of textbooks is confirmed or contradicted
only where the interval of the difference leaves 0 out: three seeds show large effects alone. Where
a second factor varies as well, arms of one value of it are compared with each other, a table for
each; for learning rates, the best one of each level. A claim on a race is judged by the loss that
all trainings of its two arms come to, whatever the table races to.

Each command takes `data.path=FOLDER` as well, where there is no network. Where a command lists
levels, values, epochs or `data.n_train`, these are fewer than in `conf/ablation`, for the time it
takes. Printed by `python bench/ablations.py sqlite:///mlflow.db --data DATA`.
"""


def newest(client: MlflowClient, data: str) -> dict[str, Run]:
    """Return the newest finished run of each ablation on a data set, by the ablation's name."""
    query = (
        "tags.`hpsearch.kind` = 'ablation' "
        f"and tags.`hpsearch.data` = '{data}' and status = 'FINISHED'"
    )
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, query, order_by=["start_time ASC"])
    return {run.data.tags["hpsearch.ablation"]: run for run in runs}


def section(client: MlflowClient, name: str, run: Run, out: Path) -> str:
    """Return an ablation's part of the page, and put its figure beside the page."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(client.download_artifacts(run.info.run_id, "answer.md", folder)).read_text()
        figure = client.download_artifacts(run.info.run_id, f"figures/{name}.png", folder)
        (out.parent / "figures").mkdir(parents=True, exist_ok=True)
        shutil.copy(figure, out.parent / "figures" / f"ablation_{name}.png")
    title, _, rest = answer.partition("\n")
    command = run.data.tags["hpsearch.command"]
    picture = f"![{name}](figures/ablation_{name}.png)"
    return f"{title}\n\n```bash\n{command}\n```\n\n{picture}\n{rest.rstrip()}\n"


def main() -> None:
    """Read the store that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--out", type=Path, default=Path("docs/ablations.md"))
    given = parser.parse_args()
    client = MlflowClient(given.store)
    found = newest(client, given.data)
    parts = [section(client, name, run, given.out) for name, run in sorted(found.items())]
    given.out.write_text("\n".join([INTRODUCTION, *parts]))
    print(f"{given.out}: {', '.join(sorted(found)) or 'no ablation of this data set has finished'}")


if __name__ == "__main__":
    main()
