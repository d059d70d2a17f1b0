"""The built-in corpus `tales`: short stories, told and asked about in conversations, written by a grammar."""
