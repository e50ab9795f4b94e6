"""Architectures: HyperModels with their settings, initializers, preprocessing, dropout masks and
sparse layers.
"""
