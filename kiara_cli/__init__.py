"""Kiara: from a text file to a small language model of your own."""
