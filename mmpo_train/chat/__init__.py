"""Conversations as turns, read from the many forms in which data files store them.

`messages.py` defines the turns and reads lists of messages; `texts.py` reads text that contains messages; `prompts.py`
and `completions.py` read the columns of a row; `columns.py` classifies the columns that are not read; `habits.py` finds
conventions of a whole file; `problems.py` lists the reasons why a row is dropped or noted.
"""
