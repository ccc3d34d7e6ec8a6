"""Metrics: computed while the predictions stream by, summed over processes, never a list of all predictions."""

from visionsparse.evaluation.accuracy import ClassificationMetric

__all__ = ["ClassificationMetric"]
