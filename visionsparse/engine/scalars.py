"""The numbers of the curves, in scalars.json: as mmengine writes them, but an error names the file."""

from __future__ import annotations

from typing import Any

from mmengine.visualization import LocalVisBackend as _LocalVisBackend

from visionsparse.files import naming
from visionsparse.registry import VISBACKENDS


@VISBACKENDS.register_module()
class LocalVisBackend(_LocalVisBackend):
    """mmengine's backend; a line that can't be written is an OSError with the file's name."""

    def _dump(self, value_dict: dict[str, Any], file_path: str, file_format: str) -> None:
        with naming(file_path):
            super()._dump(value_dict, file_path, file_format)
