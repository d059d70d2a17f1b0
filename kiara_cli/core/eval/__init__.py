"""A model and held-out data to numbers."""
