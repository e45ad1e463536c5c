"""One preference training, from prepared folders to checkpoints.

`run.py` is what every worker executes and the door; `loop.py` is the loop itself, `checkpoint.py` and `resume.py` are
what it leaves on disk, `segments.py` and `negatives.py` which completions a step trains on.
"""
