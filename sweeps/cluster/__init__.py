"""Where trials can run: the Ray cluster (`connection.py`), its nodes (`discovery.py`, `nodes.py`), what a trial asks
of them (`placement.py`) and where evaluators sit (`evaluator_seats.py`). The door is `connection.cluster`.
"""
