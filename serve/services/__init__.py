"""gRPC services: torso's own protocol, the Open Inference Protocol V2 and reflection.

May import wire, observability, inference and models. Begin with `request_handler.py`, then `prediction.py`.
"""
