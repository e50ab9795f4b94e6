"""Ablations and comparisons: arms trained from the same seeds, intervals and verdicts."""
