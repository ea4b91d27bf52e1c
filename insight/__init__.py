"""Model evaluation and inspection: metrics, reliability diagrams, pictures of networks, comparisons of runs."""

from torso.insight.inspect.inspecting import Inspection, inspect_model
from torso.insight.inspect.settings import InspectionSettings
from torso.insight.metrics.classification import ClassificationMetrics, classification_metrics
from torso.insight.metrics.regression import RegressionMetrics, regression_metrics
from torso.insight.metrics.reliability import Reliability, plot_reliability, reliability
from torso.insight.metrics.scoring import score_on_test
from torso.insight.metrics.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean_score,
    median_score,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    sample_efficiency,
)

__all__ = [
    "ClassificationMetrics",
    "Inspection",
    "InspectionSettings",
    "RegressionMetrics",
    "Reliability",
    "bootstrap_interval",
    "classification_metrics",
    "inspect_model",
    "interquartile_mean",
    "mean_score",
    "median_score",
    "optimality_gap",
    "performance_profile",
    "plot_reliability",
    "probability_of_improvement",
    "regression_metrics",
    "reliability",
    "sample_efficiency",
    "score_on_test",
]
