"""The gradient step and what it needs: optimizers, schedules, penalties, precision, saved states.

May import nets and base. Begin with `gradient_step.py`.
"""
