"""Answers of any model folder to prompts.

`sampling.py` has the settings of an answer, `generation.py` and `vllm_generation.py` generate it, and `answering.py`,
the door, keeps a model and its judges warm.
"""
