"""Arena-Hard: answers to its questions against a baseline's, in upstream's folder form (`data.py`), judged in games
(`games.py`). The door is `evaluation.ArenaHard`.
"""
