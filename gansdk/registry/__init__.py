"""Plugins: found, kept apart, looked up by name, and opened with their options."""
