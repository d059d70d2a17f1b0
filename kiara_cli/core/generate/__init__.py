"""Prompt ids to ids, and ids to text as they come."""
