"""Pictures for people: curves, confusion matrices, batches, predictions, and the regions that were looked at."""

from visionsparse.visualization.batch import draw_samples
from visionsparse.visualization.confusion import draw_confusion_matrix
from visionsparse.visualization.curves import draw_curves
from visionsparse.visualization.route_grid import draw_route_grid
from visionsparse.visualization.routes import draw_predictions, routed_regions

__all__ = [
    "draw_confusion_matrix",
    "draw_curves",
    "draw_predictions",
    "draw_route_grid",
    "draw_samples",
    "routed_regions",
]
