"""Acting without learning: evaluation over whole episodes, and videos of episodes.

May import optim, replay and runs. Begin with `evaluation.py`.
"""
