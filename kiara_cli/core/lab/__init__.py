"""Questions about models and machines, answered by measuring."""
