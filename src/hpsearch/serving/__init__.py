"""Saving a registered model, checking what was saved, and answering requests."""
