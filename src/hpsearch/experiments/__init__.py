"""Experiments: ablations and comparisons, whose arms are trained from the same seeds."""
