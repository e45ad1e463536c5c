"""Which point of a grid wins and how sure that is: in numbers (`winners.py`, `ranked.py`, `measures.py`,
`significance.py`, `noise.py`), in words and tables (`reasons.py`, `wording.py`, `epoch_tables.py`). The door is
`winners.rank`.
"""
