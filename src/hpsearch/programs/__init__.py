"""Compiled programs that train one trial after another; the only package that knows which backend Keras runs on."""
