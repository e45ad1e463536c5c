"""The one door to MLflow, for sweeps and for `mmpo judge`.

`addresses.py` says which addresses are accepted, `store.py` asks one that answered, `datasets.py` and `models.py` write
what MLflow keeps beside runs, and `delivery.py` repeats what MLflow did not take. No other file imports mlflow.
"""
