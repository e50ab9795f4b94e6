"""The command line: it reads the words that a person types, and starts a job."""
