"""One trial in, one number out."""
