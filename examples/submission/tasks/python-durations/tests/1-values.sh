#!/bin/bash
exec python3 - <<'PY'
from tally import parse_duration

cases = {"90s": 90, "1h 30m": 5400, "1d2h": 93600, "0s": 0, "1d 1h 1m 1s": 90061}
wrong = {text: parse_duration(text) for text, seconds in cases.items() if parse_duration(text) != seconds}
raise SystemExit(f"wrong: {wrong}" if wrong else 0)
PY
