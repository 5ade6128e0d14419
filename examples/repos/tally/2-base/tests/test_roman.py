import unittest

from tally import to_roman


class RomanTest(unittest.TestCase):
    def test_additive_numerals(self):
        self.assertEqual(to_roman(1), "I")
        self.assertEqual(to_roman(2026), "MMXXVI")

    def test_numbers_without_a_numeral(self):
        for number in (0, -1, 4000):
            with self.assertRaises(ValueError):
                to_roman(number)


if __name__ == "__main__":
    unittest.main()
