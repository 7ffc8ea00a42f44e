"""First-party pruners, found through the same entry points as a stranger's."""
