"""Supervised learning: configuration, augmentation, learner, training loop, calibration, fit runs.

May import optim, replay and runs. Begin with `learner.py`, then `fitting.py`.
"""
