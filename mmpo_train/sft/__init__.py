"""Instruction tuning: the starting points of Section 4.1.

The same path as a preference trial's: a value (`trial.py`), data (`data.py`, `tokens.py`), folders (`prepare.py`), and
`run.py`, which every worker executes. The door is `run.run_sft`.
"""
