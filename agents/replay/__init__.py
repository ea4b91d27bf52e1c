"""Experience replay: ring buffer of transitions, uniform and prioritized sampling, n-step returns.

May import optim. Begin with `ring.py`.
"""
