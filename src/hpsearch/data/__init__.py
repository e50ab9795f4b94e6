"""Data sets: read, checked, split and fingerprinted."""
