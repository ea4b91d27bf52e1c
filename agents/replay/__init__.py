"""Experience replay: the ring of transitions, uniform and prioritized sampling, n-step returns.

May import optim. Begin with `ring.py`.
"""
