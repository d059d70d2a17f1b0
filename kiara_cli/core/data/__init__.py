"""Raw text to documents to shards to batches."""
