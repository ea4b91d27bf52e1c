"""Wire format: tensors and messages of both protocols as bytes and arrays, data types, errors as gRPC statuses.

May import nets and proto. Begin with `tensors.py`, then `status.py`.
"""
