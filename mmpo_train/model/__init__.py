"""The policy and its log-probabilities.

`folders.py` finds a model and names it by content. `policy.py` loads, adapts and saves it (the door to transformers and
peft). `batches.py` arranges prompts and completions in passes, `attention.py` and `vocabulary.py` compute them without
padding, `logps.py` joins the two. `scoring.py` and `reference.py` score without gradient. The doors are
`policy.load_model` and `logps.CompletionLogps`.
"""
