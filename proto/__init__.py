"""The wire format: ``prediction.proto`` and the modules generated from it by ``python proto/generate.py``."""
