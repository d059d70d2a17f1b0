"""Everything worth keeping, to disk and back, atomically."""
