"""What was run and what was chosen, in MLflow.

`ledger.connect` is the door; MLflow itself is reached through `eval_workers/tracking`. Whatever a trial logs is on disk
(`journal.py`) before MLflow hears of it. Tags that hold numbers are written and read by `tags.py`.
"""
