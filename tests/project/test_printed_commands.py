"""Commands that a report prints, or that its page or description shows, do what they say.

The report is run again, after `hpsearch` the search that it advises too. The words of the others
are checked against the configuration. Those of a search itself are run by
tests/cli/test_mlflow_run.py, those of a version's description by test_ui.py.
"""

import html
import re
import shlex
from contextlib import ExitStack

import pytest

from conftest import free_port, serving
from hpsearch.cli import entry
from hpsearch.command_form import Project
from project_files import ROOT, command_of
from workplace import Workplace, shell_environment

STARTS = r"(?:[A-Z_]+=\S+ |python -m )?(?:hpsearch|mlflow) "
# The same commands with less to do: of two values of a key the last counts.
SHORTER = {"search": ["budget.n_trials=8"]}


def printed(text: str) -> list[str]:
    """Return the commands among the lines `TITLE: COMMAND` that a job has printed."""
    return re.findall(rf"^[A-Z][\w ]+: +({STARTS}.*)$", text, re.MULTILINE)


def on_page(page: str) -> list[str]:
    """Return the commands of a report's page."""
    blocks = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    return [line for block in blocks for line in html.unescape(block).splitlines()]


def in_description(text: str) -> list[str]:
    """Return the commands of a description in Markdown, without those that serve a model."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).splitlines()
    return [line for line in lines if not re.match(r"#|export |mlflow models ", line)]


def job_of(line: str) -> tuple[str, list[str]]:
    """Return the job that a printed command starts, and the words after it."""
    words = shlex.split(line)
    if words[:2] != ["mlflow", "run"]:
        assert words[0] == "hpsearch" or words[:3] == ["python", "-m", "hpsearch"]
        _, job, *given = words[words.index("hpsearch") :]
        return job, given
    assert words[2:5] == [str(ROOT), "--env-manager", "local"]
    entry_point = "main"
    rest = words[5:]
    if rest[0] == "-e":
        entry_point = rest[1]
        rest = rest[2:]
    assert set(rest[::2]) == {"-P"}
    return command_of(entry_point, **dict(word.split("=", 1) for word in rest[1::2]))


def run_here(place: Workplace, line: str) -> str:
    """Run a printed command in this process, and return what it prints."""
    job, given = job_of(line)
    done = place.here(*given, *SHORTER.get(job, []), script=job)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("form", ["hpsearch", "mlflow run"])
def test_what_a_report_advises_runs_where_it_is_read(form, searched_copy):
    place = searched_copy
    if form == "mlflow run":
        Project(str(ROOT / "MLproject"), [str(ROOT), "--env-manager", "local"], None).remember()
    told = place.here("study=digits-selu", script="report")
    assert told.returncode == 0, told.stderr
    advised, look = printed(told.stdout)
    assert look == f"mlflow ui --backend-store-uri sqlite:///{place.folder}/mlflow.db"
    assert on_page((place.folder / "digits-selu.html").read_text()) == [advised]
    (parent,) = place.runs("study")
    described = in_description(parent.data.tags["mlflow.note.content"])
    assert len(described) == 4
    assert described[0] == advised
    (place.folder / "digits-selu.html").unlink()
    for line in described:
        assert f"{form} " in line
        job, words = job_of(line)
        if job == "report" or (form == "hpsearch" and line == advised):
            assert look in printed(run_here(place, line))
        else:
            entry.check(job, entry.as_overrides(words))
    assert (place.folder / "digits-selu.html").exists()


@pytest.mark.slow
def test_the_servers_that_a_search_names_start_as_printed(searched):
    place, done = searched
    look, *_, serve = printed(done.stdout)
    assert look.startswith("mlflow ui ")
    assert " mlflow models serve " in serve
    # Half a dozen processes less; the commands name no port.
    env = shell_environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with ExitStack() as running:
        for line, page in ((look, "health"), (serve, "ping")):
            port = free_port()
            given = env | {"MLFLOW_PORT": str(port), "MLFLOW_HOST": "127.0.0.1"}
            running.enter_context(serving(line, place.folder, port, given, 240, page=page))
