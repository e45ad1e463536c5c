"""One training, from prepared folders to checkpoints.

Every worker executes `run.py`, the door. `loop.py` is the loop over a `Task`, `preferences.py` the task of preference
objectives (that of instruction tuning is in `sft/`). `checkpoint.py` and `resume.py` write the files of a training,
`segments.py` and `negatives.py` choose the completions of a step.
"""
