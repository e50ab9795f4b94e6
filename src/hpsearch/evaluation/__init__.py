"""Measure how good a model's predictions are and whether its uncertainty can be trusted."""
