#!/bin/bash
set -e
python3 -m unittest tests.test_roman
python3 -m unittest -v tests.test_roman_subtractive
