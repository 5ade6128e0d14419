"""What a prompt says, as far as a rule can use it."""

import re

FILE = re.compile(r"`([\w./-]+\.(?:py|js|c|h))`")
FRAME = re.compile(r"\bat .*?\(?([\w./-]+\.(?:py|js|c)):(\d+)(?::\d+)?\)?")


class Prompt:
    def __init__(self, text):
        self.text = text
        lines = [line.strip("# ").strip() for line in text.splitlines() if line.strip()]
        self.title = lines[0] if lines else "(empty)"
        self.files = list(dict.fromkeys(FILE.findall(text)))

    def mentions(self, *words):
        lower = self.text.lower()
        return all(word in lower for word in words)

    def frames(self):
        """(file, line number) of each line of a stack trace, innermost first."""
        return [(file, int(line)) for file, line in FRAME.findall(self.text)]
