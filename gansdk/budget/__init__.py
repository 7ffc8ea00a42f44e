"""Budgets: what a student may cost. Torch-free."""
