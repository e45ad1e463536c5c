"""Zero-shot accuracy on the ten tasks, by lm-eval (`evaluation.py`, its door), with tasks and model kept warm.
`tasks.py` has the tasks on hub or local data, `loglikelihoods.py` our model as lm-eval asks it.
"""
