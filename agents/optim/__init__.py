"""Gradient step, optimizers, learning-rate schedules, penalties, precision, serialised optimizer state.

May import nets and base. Begin with `gradient_step.py`.
"""
