"""What runs a model with its optimiser, on one worker or several.

`engine.py` says what the training loop needs; `torch_engine.py` is the plain one, `deepspeed_engine.py` the one under
ZeRO (the door to deepspeed). `passes.py` finds by trying how large a pass may be; `training_state.py` keeps a state
that any engine on any number of workers can go on from.
"""
