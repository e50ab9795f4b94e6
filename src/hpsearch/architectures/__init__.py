"""HyperModels: raw pixels in, class probabilities out."""
