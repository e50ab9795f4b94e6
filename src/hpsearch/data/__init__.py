"""Images and labels: read, named, checked, fingerprinted, split once."""
