"""Generators: recognised, wrapped, imitated, made small, and trained together."""
