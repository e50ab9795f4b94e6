"""Monte Carlo Dropout: stochastic passes of a trained model, with a self-test before use."""
