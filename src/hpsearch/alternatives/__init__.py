"""Other ways than MC Dropout to predict with uncertainty: Laplace, SWAG, ensembles."""
