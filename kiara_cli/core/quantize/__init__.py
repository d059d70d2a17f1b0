"""Weights to smaller weights: 8 or 4 bits a number, and models that compute with them."""
