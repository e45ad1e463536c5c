"""Trials, from their start to their record, on Ray or in the command's own process.

`runner.py`, the door, says what a runner does; `on_ray.py` and `in_process.py` are the two. `listener.py` hears what
trials say, `evaluators.py` has their checkpoints judged, `board.py` is the live table. On Ray `tune.py` starts trials,
`train_job.py` is one's Ray Train job, and `restarts.py`, `elastic.py` and `concurrency.py` say how it meets lost nodes.
"""
