import unittest

from tally import to_roman


class SubtractiveTest(unittest.TestCase):
    def test_each_pair(self):
        pairs = {4: "IV", 9: "IX", 40: "XL", 90: "XC", 400: "CD", 900: "CM"}
        self.assertEqual({number: to_roman(number) for number in pairs}, pairs)

    def test_together(self):
        self.assertEqual(to_roman(1994), "MCMXCIV")


if __name__ == "__main__":
    unittest.main()
