"""Question → passages of one's own documents: chunk, embed, index, search."""
