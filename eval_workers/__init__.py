"""From a checkpoint folder to named numbers.

An evaluation is a function of a folder. `suites.py` has them by name. `actors.py`, the door for sweeps, keeps them warm
beside training; `mmpo judge`, the door for a user, runs them alone.
"""
