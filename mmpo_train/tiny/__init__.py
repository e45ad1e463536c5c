"""The embedded default: a model of a million parameters and its data, made on the spot from seeds.

`tasks.py` asks questions and marks answers; `model.py` writes the preference data from them and makes the model. No
download, no network. The doors are `model.preference_examples` and `model.build`.
"""
