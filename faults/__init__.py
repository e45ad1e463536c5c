"""Faults fired at real code: `make faults`. Not a part of the product.

`engine.py` draws cases, runs them and counts. `processes.py` and `files.py` are the faults. The four rings are what
they are fired at: `ledger.py`, `training.py`, `judges.py`, `stages.py`. Each says how work is begun, and how what it
left is compared with an undisturbed run.
"""
