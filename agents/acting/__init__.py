"""Acting without learning: evaluation over whole episodes, and videos of them.

May import optim, replay and runs. Begin with `evaluation.py`.
"""
