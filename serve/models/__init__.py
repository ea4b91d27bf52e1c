"""Model management: repository, versions, polling, loading in the background, hot swap.

May import wire, observability and inference. Begin with `repository.py`, then `manager.py`.
"""
