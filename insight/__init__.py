"""Model evaluation and inspection: metrics, reliability diagrams, pictures of networks and of their mistakes."""

from torso.insight.inspect.inspecting import Inspection, inspect_model
from torso.insight.inspect.settings import InspectionSettings
from torso.insight.metrics.classification import ClassificationMetrics, classification_metrics
from torso.insight.metrics.regression import RegressionMetrics, regression_metrics
from torso.insight.metrics.reliability import Reliability, plot_reliability, reliability
from torso.insight.metrics.scoring import score_on_test

__all__ = [
    "ClassificationMetrics",
    "Inspection",
    "InspectionSettings",
    "RegressionMetrics",
    "Reliability",
    "classification_metrics",
    "inspect_model",
    "plot_reliability",
    "regression_metrics",
    "reliability",
    "score_on_test",
]
