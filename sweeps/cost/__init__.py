"""What trials will cost and did cost: arithmetic on numbers (`arithmetic.py`), what it is made from (`of_trials.py`,
`lengths.py`) and room on disk (`disk.py`). The door is `of_trials.forecast_trials`.
"""
