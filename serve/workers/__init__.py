"""Several worker processes behind one port: supervisor, workers and their inter-process communication.

May import server and what is below it. Begin with `supervisor.py`.
"""
