"""gRPC services: what answers requests, in torso's own protocol and in the Open Inference Protocol V2.

May import wire, observability, inference and models. Begin with `request_handler.py`, then `prediction.py`.
"""
