#!/bin/bash
# Hidden tests first, then those of the repository.
set -e
python3 -m unittest -v tests.test_median_even
python3 -m unittest tests.test_stats
