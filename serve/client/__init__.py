"""Clients: synchronous (blocking) and asyncio, with retries, connection pools, streams of actions and pipelined calls.

May import wire, and neither torch nor onnxruntime. Begin with `sync_client.py`.
"""
