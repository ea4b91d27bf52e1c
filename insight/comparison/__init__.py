"""Comparison of training runs over seeds: learning curves and reports, from records that are plain data.

May import units, pictures and metrics. Begin with `run_records.py`.
"""
