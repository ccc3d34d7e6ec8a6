"""Image files and arrays as 8-bit RGB.

Only the formats named here are tried, and a picture of more pixels than Pillow's MAX_IMAGE_PIXELS is refused.
Alpha is dropped and the EXIF orientation is ignored, because the published accuracies (torchvision's and timm's
loaders) are measured that way.
"""

from __future__ import annotations

import os
import warnings
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from visionsparse.errors import DataError, InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


class CorruptImage(DataError):
    """The file is there and open to us, but no image that is read: the kind that a data set can be told to skip."""


def read_image(source: str | os.PathLike | IO[bytes]) -> Image.Image:
    """Reads an image file as 8-bit RGB.

    Grey, palette, CMYK and alpha images are converted; 16-bit grey is scaled. Animations give their first frame.

    Args:
        source: a path or an open binary file.

    Raises:
        CorruptImage: corrupt, truncated, too large, or of a format or depth that is not read; names the file.
        DataError: missing, a folder, or closed to this user; names the file.
    """
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", "image")
    if isinstance(source, str | os.PathLike) and not os.path.isfile(source):
        is_folder = os.path.isdir(source)
        missing = "a link to a file that is gone" if os.path.islink(source) else "no such image file"
        raise DataError(f"{name}: {'a folder, expected an image file' if is_folder else missing}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source, formats=FORMATS)
        with image:
            image.load()
            return _rgb(image)
    except PermissionError as error:
        raise DataError(f"{name}: this user may not read it. Change its permissions.") from error
    except Image.UnidentifiedImageError as error:
        raise CorruptImage(f"{name}: not an image of a known format (expected {', '.join(FORMATS)}).") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CorruptImage(f"{name}: too large (over {Image.MAX_IMAGE_PIXELS} pixels). Scale it down.") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        raise CorruptImage(f"{name}: corrupt or truncated image ({error}). Replace or remove the file.") from error


def to_rgb(image: Any) -> Image.Image:
    """An image in memory as 8-bit RGB.

    Args:
        image: a PIL image of any mode, a uint8 array (height, width, 3), or a tensor (3, height, width), float in
            [0, 1] or uint8.

    Raises:
        InputError: another type, shape, dtype or range.
    """
    if isinstance(image, Image.Image):
        try:
            return _rgb(image)
        except ValueError as error:
            raise InputError(f"image of mode {image.mode!r}: {error}.") from error
    if isinstance(image, torch.Tensor):
        return Image.fromarray(_tensor_to_array(image))
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise InputError(f"array {image.shape} of {image.dtype}: expected (height, width, 3) of uint8.")
        return Image.fromarray(np.ascontiguousarray(image))
    raise InputError(f"{type(image).__name__}: expected a PIL image, a uint8 array or a tensor.")


def _tensor_to_array(image: torch.Tensor) -> np.ndarray:
    is_image = image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0
    if not is_image or not (image.is_floating_point() or image.dtype == torch.uint8):
        raise InputError(
            f"tensor {tuple(image.shape)} of {image.dtype}: expected (3, height, width), float in [0, 1] or uint8."
        )
    image = image.detach().cpu()
    if image.is_floating_point():
        if not bool(((image >= 0) & (image <= 1)).all()):
            low, high = image.min().item(), image.max().item()
            raise InputError(f"tensor with values from {low:.4g} to {high:.4g}: expected [0, 1], not normalised.")
        image = image.float().mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _rgb(image: Image.Image) -> Image.Image:
    """Raises ValueError where the mode can't be shown as 8-bit RGB."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return _scaled_16_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating point pixels, expected 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # straight to RGB Pillow warns
    return image.convert("RGB")


def _scaled_16_bit(image: Image.Image) -> Image.Image:
    """0..65535 to 0..255. Pillow's own convert clips mode I at 255: a nearly white picture."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixel values from {values.min()} to {values.max()}, expected 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
