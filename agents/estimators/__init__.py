"""Scikit-learn estimators: `Classifier` and `Regressor`.

May import supervised and what is below it. Begin with `estimator.py`.
"""
