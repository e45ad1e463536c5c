"""Conversations as turns, and how people's files write them.

`messages.py` has the turns and reads lists of messages, `texts.py` text that spells them, `prompts.py` the columns of a
prompt; `columns.py` knows those that nobody reads, `habits.py` what a whole file does, `doubts.py` what makes one
doubt a row that can be read, `problems.py` the reasons for which a row is dropped or noted.
"""
