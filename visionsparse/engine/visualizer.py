"""mmengine's visualizer, which writes the curves of a run: to scalars.json, and to TensorBoard where that is asked for.

visionsparse train CONFIG --cfg-options visualizer.tensorboard=True
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from mmengine.visualization import Visualizer as _Visualizer

from visionsparse.errors import ConfigError
from visionsparse.registry import VISUALIZERS


@VISUALIZERS.register_module()
class Visualizer(_Visualizer):
    """mmengine's visualizer.

    Args:
        name, save_dir: what the Runner gives.
        vis_backends: where curves go; by default scalars.json.
        tensorboard: also write TensorBoard's event files beside it.

    Raises:
        ConfigError: TensorBoard is asked for but not installed.
    """

    def __init__(
        self,
        name: str = "visualizer",
        vis_backends: Sequence[dict[str, Any]] = ({"type": "LocalVisBackend"},),
        save_dir: str | None = None,
        tensorboard: bool = False,
    ) -> None:
        backends = [dict(backend) for backend in vis_backends]
        if tensorboard:
            backends.append({"type": "TensorboardVisBackend"})
        wanted = any(backend["type"] == "TensorboardVisBackend" for backend in backends)
        if wanted and importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("visualizer: TensorBoard is asked for but not installed: pip install tensorboard")
        super().__init__(name, vis_backends=backends, save_dir=save_dir)
