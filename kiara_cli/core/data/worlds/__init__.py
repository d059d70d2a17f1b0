"""Small worlds: a file of casts, sentences with slots and talks → conversations, held-out talks and their scorer."""
