"""The models of a server: repository, versions, polling, loading beside what serves, hot swap.

May import wire, observability and inference. Begin with `repository.py`, then `manager.py`.
"""
