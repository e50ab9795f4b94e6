"""Stochastic passes of one model, checked before they are trusted."""
