"""Agents and classifiers: what learns."""
