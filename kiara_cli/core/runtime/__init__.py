"""The machine under the model: device, precision, threads, randomness."""
