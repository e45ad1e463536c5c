"""Engines run a model with its optimiser, on one worker or several.

`engine.py` has the interface that the training loop needs, `torch_engine.py` the plain engine, `deepspeed_engine.py`
the one under ZeRO (the door to deepspeed). `masters.py` has fp32 masters of half-precision weights. `passes.py` has the
size of a pass, `trying.py` finds it by trying. `training_state.py` saves a state from which any engine on any number of
workers can continue.
"""
