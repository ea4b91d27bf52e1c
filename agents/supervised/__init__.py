"""Supervised learning: settings, augmentation, the learner, the fit by epochs, calibration, fit runs.

May import optim, replay and runs. Begin with `learner.py`, then `fitting.py`.
"""
