"""Zero-shot accuracy on the ten tasks, by lm-eval (`evaluation.py`, its door), with tasks and model kept warm.
`tasks.py` defines the tasks on hub or local data, `loglikelihoods.py` scores what lm-eval asks of a model.
"""
