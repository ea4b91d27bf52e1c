"""What was learned, made visible: metrics, calibration curves, pictures of networks and of their mistakes."""

from torso.insight.inspecting import Inspection, inspect_model
from torso.insight.inspection_settings import InspectionSettings
from torso.insight.metrics import ClassificationMetrics, classification_metrics
from torso.insight.regression_metrics import RegressionMetrics, regression_metrics
from torso.insight.reliability import Reliability, plot_reliability, reliability
from torso.insight.scoring import score_on_test

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
