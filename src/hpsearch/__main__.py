"""Run a job: `hpsearch JOB KEY=VALUE ...`; see `hpsearch.cli.main`."""

from hpsearch.cli.main import main

main()
