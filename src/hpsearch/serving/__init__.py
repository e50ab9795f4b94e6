"""Saving of registered models, the check of what was saved, and serving with uncertainty."""
