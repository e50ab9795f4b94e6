"""One model fitted, or many at once: epochs, schedules, checkpoints."""
