"""A small rule-based agent: reads the task, picks the rules that fit, edits the repository it was started in.

It stands for whatever a validator submits. It takes the task as any agent does (--instruction, or the file that
TASK_PROMPT names) and lives in several files, which stay beside each other.
"""

import argparse
import os
import pathlib
import sys

from solver.prompt import Prompt
from solver.rules import RULES, leave_a_note


def read_instruction():
    parser = argparse.ArgumentParser()
    parser.add_argument("--instruction")
    given = parser.parse_args().instruction
    if given:
        return given
    return pathlib.Path(os.environ["TASK_PROMPT"]).read_text(encoding="utf-8")


def main():
    repository = pathlib.Path.cwd()
    prompt = Prompt(read_instruction())
    print(f"task {os.environ.get('TASK_ID', '?')}: {prompt.title}", flush=True)
    print(f"files named in the prompt: {', '.join(prompt.files) or 'none'}", flush=True)

    changed = []
    for rule in RULES:
        if rule.fits(prompt):
            print(f"rule: {rule.name}", flush=True)
            changed += rule.apply(prompt, repository)
    if not changed:
        print("no rule helped; leaving a note", flush=True)
        changed = leave_a_note(prompt, repository)
    for path in dict.fromkeys(changed):
        print(f"changed: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
