"""Plugins: found, kept apart, looked up by name, and opened with their options."""

from gansdk.registry.discovery import Registry, registry

__all__ = ["Registry", "registry"]
