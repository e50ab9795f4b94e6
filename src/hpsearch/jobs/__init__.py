"""The jobs: each names its parts and runs them in order."""
