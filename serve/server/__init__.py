"""Server of one process: its port, TLS, authentication, lifecycle from start to drain.

May import services and what is below it. Begin with `grpc_server.py`, then `lifecycle.py`.
"""
