"""The one door to MLflow, for sweeps and for `mmpo judge`.

`addresses.py` says which addresses are accepted, `store.py` asks one that answered, `datasets.py`, `models.py` and
`traces.py` write what MLflow keeps beside runs, `source.py` says who runs what, and `delivery.py` repeats what MLflow
did not take. No other file imports mlflow.
"""
