"""Metrics of classifiers and regressors, reliability of probabilities, and scores on test data.

May import units and pictures. Begin with `classification.py`.
"""
