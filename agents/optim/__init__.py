"""Gradient step and its closed form, optimizers, schedules, penalties, precision, memory format, optimizer state.

May import nets and base. Begin with `gradient_step.py`.
"""
