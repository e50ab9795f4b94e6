"""The noise of dropout, while training and in MC Dropout: random words, and what they do to a layer's input."""
