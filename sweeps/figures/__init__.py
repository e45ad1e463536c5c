"""Pictures as PNG and SVG, the only files that import matplotlib: of a stage (`stage.py`), of a report
(`trade_off.py`), of a joint search (`importances.py`). They take numbers and give back a path.
"""
