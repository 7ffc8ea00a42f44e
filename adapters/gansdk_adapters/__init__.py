"""First-party adapters, found through the same entry points as a stranger's."""
