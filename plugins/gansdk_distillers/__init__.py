"""First-party distillers, found through the same entry points as a stranger's."""
