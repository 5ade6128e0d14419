"""Small helpers for counting things."""

from .durations import parse_duration
from .roman import to_roman
from .stats import mean, median

__all__ = ["mean", "median", "parse_duration", "to_roman"]
