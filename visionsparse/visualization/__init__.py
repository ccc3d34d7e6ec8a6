"""Pictures for people: curves, confusion matrices, predictions with the regions they looked at."""

from visionsparse.visualization.confusion import draw_confusion_matrix
from visionsparse.visualization.curves import draw_curves
from visionsparse.visualization.routes import draw_predictions, routed_regions

__all__ = ["draw_confusion_matrix", "draw_curves", "draw_predictions", "routed_regions"]
