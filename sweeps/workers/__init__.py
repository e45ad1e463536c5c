"""The workers of a trial: what trains, and in which process.

`training.py` is what trains, without Ray. `ray_worker.py`, the door, is a worker of Ray Train's, which has it done in a
fork of its node's warm process (`warm.py`) and speaks to Ray for it.
"""
