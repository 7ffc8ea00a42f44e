"""First-party metrics, found through the same entry points as a stranger's."""
