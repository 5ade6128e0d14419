"""Small helpers for counting things."""

from .stats import mean, median

__all__ = ["mean", "median"]
