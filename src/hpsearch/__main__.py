"""`python -m hpsearch JOB KEY=VALUE ...` runs a job; see `hpsearch.cli.main`."""

from hpsearch.cli.main import main

main()
