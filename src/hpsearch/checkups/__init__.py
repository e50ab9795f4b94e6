"""Do study, runs and queue agree; the same suggestions again, and why."""
