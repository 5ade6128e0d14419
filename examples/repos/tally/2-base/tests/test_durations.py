import unittest

from tally import parse_duration


class DurationsTest(unittest.TestCase):
    def test_other_text_is_refused(self):
        for text in ("", "soon", "5", "5x", "1h!"):
            with self.assertRaises(ValueError):
                parse_duration(text)


if __name__ == "__main__":
    unittest.main()
