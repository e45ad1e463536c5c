"""Trials on Ray, from their start to their record.

`tune.py`, the door, lets Tune run them; `train_job.py` is one trial's Ray Train job; `restarts.py`, `elastic.py` and
`concurrency.py` say how it meets lost nodes; `evaluators.py` has its checkpoints judged; `board.py` is the live table.
"""
