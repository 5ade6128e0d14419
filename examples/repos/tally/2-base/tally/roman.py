"""Roman numerals."""

NUMERALS = [
    (1000, "M"),
    (500, "D"),
    (100, "C"),
    (50, "L"),
    (10, "X"),
    (5, "V"),
    (1, "I"),
]


def to_roman(number):
    """The roman numeral of a number from 1 to 3999. Raises ValueError for others."""
    if not 1 <= number <= 3999:
        raise ValueError(f"no roman numeral for {number}")
    text = ""
    for value, letter in NUMERALS:
        count, number = divmod(number, value)
        text += letter * count
    return text
