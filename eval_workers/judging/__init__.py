"""Which of two answers is better.

How a judge is named (`specs.py`), reached (`clients.py`, `local_judge.py`), asked (`judges.py`,
`preference_judges.py`), paid for under a cap (`costs.py`) and never asked twice (`verdicts.py`). The doors are
`judges.open_judge` and `preference_judges.open_preference_judge`.
"""
