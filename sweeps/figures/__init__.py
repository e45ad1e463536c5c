"""Figures as PNG and SVG, of a stage (`stage.py`), a report (`trade_off.py`) and a joint search (`importances.py`).
Only these files import matplotlib. They take numbers and return a path.
"""
