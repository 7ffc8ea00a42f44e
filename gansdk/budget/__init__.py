"""Budgets: what a student may cost. Torch-free."""

from gansdk.budget.budget import SPELLINGS, Budget, Ceiling, Share, is_ratio
from gansdk.budget.cost import Cost, Counting, Limits, sum_of

__all__ = ["SPELLINGS", "Budget", "Ceiling", "Cost", "Counting", "Limits", "Share", "is_ratio", "sum_of"]
