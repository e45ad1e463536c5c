"""The step benchmark: a step's work, its race against TRL, the ladder of our own measures, and what machine it is
measured on. `step.py` beside this folder is the command."""
