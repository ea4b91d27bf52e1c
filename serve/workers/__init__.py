"""Several processes behind one port: a supervisor, its workers, and the messages between them.

May import server and what is below it. Begin with `supervisor.py`.
"""
