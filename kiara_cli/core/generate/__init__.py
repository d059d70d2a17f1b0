"""Prompt ids to ids, many texts at a time, and ids to text as they come."""
