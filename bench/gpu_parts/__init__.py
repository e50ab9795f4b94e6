"""The parts of bench/gpu.py, a script for each, and the table that is made from their results."""
