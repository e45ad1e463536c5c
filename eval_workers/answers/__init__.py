"""Answers of any model folder to prompts.

`sampling.py` says how an answer is drawn, `generation.py` and `vllm_generation.py` draw it, and `answering.py`, the
door, keeps a model and its judges warm.
"""
