"""Statistics over lists of numbers."""


def mean(values):
    """The arithmetic mean. Raises ValueError for an empty list."""
    if not values:
        raise ValueError("mean of no values")
    return sum(values) / len(values)


def median(values):
    """The middle value, or the mean of the two in the middle. Raises ValueError for an empty list."""
    if not values:
        raise ValueError("median of no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2 == 1:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2
