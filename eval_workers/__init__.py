"""From a checkpoint folder to named numbers.

An evaluation is a function of a folder. `suites.py` has them by name; `actors.py` keeps them warm beside training
(the door for sweeps), `python -m eval_workers` runs them alone (the door for a person).
"""
