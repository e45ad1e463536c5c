"""One training, from prepared folders to checkpoints.

`run.py` is what every worker executes and the door; `loop.py` is the loop itself, over a `Task`, and `preferences.py`
the task of preference objectives (that of instruction tuning is in `sft/`). `checkpoint.py` and `resume.py` are what a
training leaves on disk, `segments.py` and `negatives.py` which completions a step trains on.
"""
