"""The jobs that a command starts: each names its parts and runs them in order."""
