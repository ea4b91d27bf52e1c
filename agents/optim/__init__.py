"""Gradient step, optimizers, learning-rate schedules, penalties, precision, memory format, serialised optimizer state.

May import nets and base. Begin with `gradient_step.py`.
"""
