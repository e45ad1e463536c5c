"""AlpacaEval 2: answers to its prompts against a baseline's, with length control (`length_control.py`, on
scikit-learn). The door is `evaluation.AlpacaEval`.
"""
