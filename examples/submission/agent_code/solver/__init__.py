"""The parts of the agent: what the prompt says (prompt), and what can be done about it (rules)."""
