"""The one door to MLflow, for sweeps and for `mmpo judge`.

`addresses.py` says which addresses are accepted, `store.py` (the only file that imports mlflow) asks an address that
answered, and `delivery.py` repeats what MLflow did not take.
"""
