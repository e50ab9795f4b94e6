"""The architectures under search, their layers, their settings and the code that they need."""
