"""Instruction tuning: the starting points of Section 4.1.

The path is that of a preference trial: a value (`trial.py`), data (`data.py`, `tokens.py`), folders (`prepare.py`), and
`run.py`, which every worker executes. The door is `run.run_sft`.
"""
