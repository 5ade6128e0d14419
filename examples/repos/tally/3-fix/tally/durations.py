"""Durations such as ``1d 2h`` or ``90s``."""

import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PART = re.compile(r"(\d+)([smhd])")


def parse_duration(text):
    """Seconds in a duration. Raises ValueError for text that is none."""
    compact = "".join(text.split())
    parts = PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(f"not a duration: {text!r}")
    seconds = 0
    for number, unit in parts:
        seconds += int(number) * UNITS[unit]
    return seconds
