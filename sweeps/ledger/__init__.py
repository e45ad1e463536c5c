"""What was run and what was chosen, in MLflow.

`ledger.connect` is the door, `store.py` the only file that imports mlflow. Whatever a trial logs is on disk
(`journal.py`) before MLflow hears of it (`delivery.py`).
"""
