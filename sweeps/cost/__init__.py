"""The expected and the real cost of trials: arithmetic on numbers (`arithmetic.py`), the numbers for it
(`of_trials.py`, `lengths.py`, `evaluations.py`) and disk space (`disk.py`). The door is `of_trials.forecast_trials`.
"""
