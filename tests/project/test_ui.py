"""What a person sees in the MLflow UI after a search, in a real browser; tests/output/ui keeps the
pictures.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from conftest import MlflowServer, free_port, serving, wait_until
from workplace import SMALL, Workplace, shell_environment

pytestmark = pytest.mark.slow
OUTPUT = Path(__file__).parents[1] / "output" / "ui"
PATIENCE_S = 180
FAST = (
    "parts.verdict.n_resamples=100",
    "parts.verdict.n_seeds=2",
    "parts.calibration.n_simulations=50",
    "parts.rates=null",
    "parts.shift=null",
    "parts.passes=null",
    "parts.ensembles=null",
)


class Browser:
    """Headless Chromium on one MLflow server."""

    def __init__(self, driver, uri):
        self.driver, self.uri = driver, uri

    def open(self, name, path, *texts):
        """Open a page of the UI, wait until it shows `texts`, keep a picture, and return all that
        it says.
        """
        self.driver.get("about:blank")  # the UI's addresses differ behind # alone
        self.driver.get(
            f"{self.uri}/#/{path}{'&' if '?' in path else '?'}workflowType=machine_learning"
        )
        return self.wait(name, *texts)

    def wait(self, name, *texts):
        try:
            wait_until(
                lambda: all(text in self.text() for text in texts),
                f"{texts} on page {name}",
                PATIENCE_S,
            )
        finally:
            self.press("[data-component-id='mlflow.assistant.chat_panel.close']", all_of_them=True)
            self.driver.save_screenshot(str(OUTPUT / f"{name}.png"))
        return self.text()

    def text(self):
        from selenium.common.exceptions import WebDriverException  # noqa: PLC0415

        try:
            return " ".join(self.driver.find_element("tag name", "body").text.split())
        except WebDriverException:  # the page is being written anew
            return ""

    def press(self, css, all_of_them=False):
        found = self.driver.find_elements("css selector", css)
        for element in found if all_of_them else found[:1]:
            self.driver.execute_script("arguments[0].click()", element)
        return bool(found)

    def press_text(self, text):
        self.driver.find_element("xpath", f"//*[normalize-space(text())='{text}']").click()


@pytest.fixture(scope="module")
def chromium():
    selenium = pytest.importorskip("selenium.webdriver")
    binary, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and service):
        pytest.skip("Chromium is not installed (Debian's packages chromium and chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
    ):
        options.add_argument(argument)
    options.add_argument("--window-size=1500,1100")
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(service))
    driver.set_page_load_timeout(PATIENCE_S)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def searched_on_a_server(tmp_path_factory):
    """A search of eight trials and an evaluation, in the store of an MLflow server."""
    folder = tmp_path_factory.mktemp("ui")
    server, place = MlflowServer(folder), Workplace(folder)
    done = place.run(*SMALL, "arch=selu", "budget.n_trials=8", MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stderr
    command = ("registered_model=digits-selu", *FAST)
    done = place.run(*command, script="evaluate", MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stderr
    (parent,), trials = place.runs("study"), place.runs("trial")
    yield SimpleNamespace(server=server, place=place, parent=parent, trials=trials)
    server.stop()


@pytest.fixture
def site(chromium, searched_on_a_server):
    found = searched_on_a_server
    return SimpleNamespace(browser=Browser(chromium, found.server.uri), **vars(found))


def best_of(site):
    number = site.parent.data.tags["hpsearch.best_trial"]
    return next(run for run in site.trials if run.data.tags["hpsearch.trial"] == number)


def test_the_experiment_page_lists_studies_with_their_trials_below(site):
    told = site.browser.open("experiment", "experiments/0/runs", "digits-selu", "Run Name")
    assert "#0 lr=" not in told  # trials are folded away under their study
    assert "digits (" in told
    wanted = quote("tags.`hpsearch.kind` = 'trial'")
    key = quote("metrics.`best/val/loss`")
    path = f"experiments/0/runs?searchFilter={wanted}&orderByKey={key}&orderByAsc=true"
    told = site.browser.open("trials", path, "#0 lr=", "#7 lr=")
    places = {
        run.info.run_name: told.index(run.info.run_name)
        for run in site.trials
        if run.info.run_name in told
    }
    assert min(places, key=places.get) == best_of(site).info.run_name


def test_a_studys_page_is_a_summary_with_commands(site):
    told = site.browser.open(
        "study", f"experiments/0/runs/{site.parent.info.run_id}", "Best trial:", "Next:"
    )
    site.browser.press_text("Show more")
    told = site.browser.wait("study_whole", "hpsearch evaluate registered_model=digits-selu")
    best = best_of(site)
    for expected in (
        f"{best.info.run_name}, val/loss {best.data.metrics['best/val/loss']:.4f}",
        "finished",
        "pruned",
        "of work",
        "learning_rate 0.0001 to 0.005 (log)",
        "report.html under Artifacts",
        "hpsearch search",
        "mlflow models serve -m models:/digits-selu@champion",
        "with MC Dropout",
    ):
        assert expected in told


def test_the_report_opens_as_a_page_among_the_artifacts(site):
    site.browser.open(
        "report",
        f"experiments/0/runs/{site.parent.info.run_id}/artifacts/report.html",
        "report.html",
    )
    frames = site.browser.driver.find_elements("tag name", "iframe")
    site.browser.driver.switch_to.frame(frames[0])
    told = site.browser.wait("report", "What to do next")
    pictures = site.browser.driver.find_elements("tag name", "img")
    drawn = [
        site.browser.driver.execute_script("return arguments[0].naturalWidth", p) for p in pictures
    ]
    site.browser.driver.switch_to.default_content()
    assert "Are more trials likely to pay?" in told
    assert len(drawn) == 6
    assert all(width > 300 for width in drawn)


def test_a_trials_page_has_its_place_its_study_and_what_it_took(site):
    best = best_of(site)
    told = site.browser.open(
        "trial", f"experiments/0/runs/{best.info.run_id}", "Parent run", "place 1 of"
    )
    assert "digits (" in told  # its data set, with the fingerprint
    assert "digits-selu" in told
    site.browser.open(
        "curves",
        f"experiments/0/runs/{best.info.run_id}/model-metrics",
        "best (1)",
        "best/train (2)",
    )
    path = f"experiments/0/runs/{best.info.run_id}/system-metrics"
    site.browser.open("system", path, "process_memory_megabytes")


def test_a_pruned_trials_page_says_why(site):
    pruned = next(run for run in site.trials if run.data.tags["hpsearch.end"] == "pruned")
    told = site.browser.open(
        "pruned", f"experiments/0/runs/{pruned.info.run_id}", "pruned after epoch"
    )
    assert re.search(r"place \d of \d at that epoch", told)


def test_a_versions_page_says_where_it_is_from_and_what_it_is_worth(site):
    told = site.browser.open(
        "version", "models/digits-selu/versions/1", "What it is worth", "Load it"
    )
    for expected in (
        "The model of trial",
        "champion",
        "accuracy: 0.",
        "test examples MC Dropout, the mean of many predictions",
        "Self-test passed:",
        "mlflow.pyfunc.load_model",
        "mlflow models serve",
    ):
        assert expected in told
    site.browser.open("model", "models/digits-selu", "champion", "Version 1")


def test_an_evaluation_opens_as_a_page(site):
    (run,) = site.place.runs("evaluation")
    site.browser.open(
        "evaluation",
        f"experiments/0/runs/{run.info.run_id}/artifacts/evaluation.html",
        "evaluation.html",
    )
    site.browser.driver.switch_to.frame(site.browser.driver.find_elements("tag name", "iframe")[0])
    told = site.browser.wait("evaluation", "Evaluation of digits-selu version 1")
    site.browser.driver.switch_to.default_content()
    assert "Verdict" in told


def snippets(site):
    """Return the pieces of code on the version's page: Python, then two for a shell."""
    text = site.place.client.get_model_version("digits-selu", "1").description
    return re.findall(r"```(?:python|bash)\n(.*?)```", text, re.DOTALL)


def test_the_snippet_that_loads_a_version_runs(searched_on_a_server):
    python, *_ = snippets(searched_on_a_server)
    done = subprocess.run(
        [sys.executable, "-c", python], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "abstain" in done.stdout


def test_the_snippets_that_serve_a_version_and_ask_it_run(searched_on_a_server, tmp_path):
    _, serve, ask = snippets(searched_on_a_server)
    port, env = str(free_port()), shell_environment()
    with serving(serve.replace("5077", port), tmp_path, port, env, timeout_s=PATIENCE_S):
        asked = subprocess.run(
            ["bash", "-c", ask.replace("5077", port)],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    assert '"conformal_set"' in asked.stdout
