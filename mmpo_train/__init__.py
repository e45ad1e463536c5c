"""The training core: from a model and preference data to checkpoints, on one machine or on many workers.

Nothing here knows Ray or MLflow, and nothing but `engines/deepspeed_engine.py` knows DeepSpeed. A trial is a value
(`config.py`) and its settings come from a recipe (`recipes.py`). `prepare.py` turns what the user named into folders,
`trial/run.py` trains on them. The door for a user is `mmpo train`.
"""
