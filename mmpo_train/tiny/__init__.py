"""The embedded default: a model of a million parameters and its data, generated from seeds.

`tasks.py` asks the questions of questions.yaml and marks answers; `rows.py` writes the data from them, `model.py` the
tokenizer and a model of random weights, `recipe.py` says what all of it is made from. No download, no network.
`mmpo_train/sft/tiny.py` tunes the model. The doors are `rows.preference_examples` and `model.build_untrained`.
"""
