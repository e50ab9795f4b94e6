"""Controlled experiments: ablations of one factor, and comparisons of studies."""
