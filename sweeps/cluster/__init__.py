"""Where trials can run: the Ray cluster (`connection.py`), its nodes (`discovery.py`, `nodes.py`), the resources of a
trial (`placement.py`) and of the evaluators (`evaluator_seats.py`). The door is `connection.cluster`.
"""
