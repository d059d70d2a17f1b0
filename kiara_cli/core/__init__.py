"""The silent library: it never prints, never exits, never reads arguments or the environment."""
