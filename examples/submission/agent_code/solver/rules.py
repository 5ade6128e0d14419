"""The mistakes this agent knows, and how it repairs them."""

import re


class Rule:
    """Replaces a pattern in the files that the prompt names, if the prompt is about that mistake."""

    def __init__(self, name, words, pattern, replacement):
        self.name = name
        self.words = words
        self.pattern = re.compile(pattern, re.MULTILINE)
        self.replacement = replacement

    def fits(self, prompt):
        return prompt.mentions(*self.words)

    def apply(self, prompt, repository):
        changed = []
        for file in prompt.files:
            path = repository / file
            before = path.read_text(encoding="utf-8")
            after = self.pattern.sub(self.replacement, before)
            if after != before:
                path.write_text(after, encoding="utf-8")
                changed.append(file)
        return changed


class GuardTheFailingLine:
    """Wraps the line that a stack trace points at in a condition on the value it uses."""

    name = "guard the failing line"

    def fits(self, prompt):
        return bool(prompt.frames())

    def apply(self, prompt, repository):
        file, number = prompt.frames()[0]
        path = repository / file
        lines = path.read_text(encoding="utf-8").splitlines()
        # The trace may come from a bundle, where line numbers are not those of the source. This agent does not know.
        failing = lines[number - 1]
        value = re.search(r"(\w+)\.\w+\(", failing).group(1)
        indent = failing[: len(failing) - len(failing.lstrip())]
        lines[number - 1] = f"{indent}if ({value} == null) continue;\n{failing}"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [file]


RULES = [
    Rule(
        "mean of the two middle values",
        ["median", "even"],
        r"^( *)return (\w+)\[len\(\2\) // 2\]$",
        r"\1half = len(\2) // 2"
        r"\n\1if len(\2) % 2:"
        r"\n\1    return \2[half]"
        r"\n\1return (\2[half - 1] + \2[half]) / 2",
    ),
    Rule("loop to the last element (Python)", ["last"], r"range\(len\((\w+)\) - 1\)", r"range(len(\1))"),
    Rule("loop to the last element (C)", ["last"], r"\b(\w+) \+ 1 < ([\w>.-]+);", r"\1 < \2;"),
    Rule(
        "plus signs are spaces",
        ["plus sign", "space"],
        r"decodeURIComponent\((\w+)\)",
        r"decodeURIComponent(\1.replaceAll('+', ' '))",
    ),
    GuardTheFailingLine(),
]

COMMENT = {".py": "# ", ".js": "// ", ".c": "// ", ".h": "// "}


def leave_a_note(prompt, repository):
    """What the agent does when it knows no better: a comment, which repairs nothing."""
    changed = []
    for file in prompt.files:
        path = repository / file
        text = path.read_text(encoding="utf-8")
        path.write_text(f"{COMMENT[path.suffix]}Reviewed: {prompt.title}\n{text}", encoding="utf-8")
        changed.append(file)
    return changed
