import unittest

from tally import median


class EvenMedianTest(unittest.TestCase):
    def test_the_mean_of_the_two_in_the_middle(self):
        self.assertEqual(median([1, 2, 3, 4]), 2.5)
        self.assertEqual(median([10, -10]), 0)

    def test_the_order_of_the_values_does_not_matter(self):
        self.assertEqual(median([4, 1, 3, 2]), 2.5)

    def test_an_odd_number_of_values_still_works(self):
        self.assertEqual(median([9, 1, 5]), 5)


if __name__ == "__main__":
    unittest.main()
