"""Data and a model to a trained model, as a stream of events."""
