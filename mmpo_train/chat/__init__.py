"""Conversations as turns, and the forms in which data files have them.

`messages.py` has the turns and reads lists of messages, `texts.py` reads text that contains them, `prompts.py` the
columns of a prompt, `completions.py` what separates a completion from it. `columns.py` knows the columns that are not
read, `habits.py` the conventions of a whole file, `doubts.py` the signs of a pair that is probably not as intended, and
`problems.py` the reasons why a row is dropped or noted.
"""
