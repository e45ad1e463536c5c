"""What persons ask of running trials, by the tag `do` of a run in MLflow.

`orders.py` reads the tag; `control.py` has it carried out by the trial's workers and puts the answer in its place.
"""
