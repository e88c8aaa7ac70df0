"""The demo: a perceptron that learns to read digits while its checkpoints are written beside it."""
