"""Run a job: `python -m hpsearch JOB KEY=VALUE ...`; see `hpsearch.cli.main`."""

from hpsearch.cli.main import main

main()
