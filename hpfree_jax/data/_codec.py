"""PNG and JPEG images to arrays and back.

Pillow, which comes with Matplotlib, does for the small images of the default install.
OpenCV, where it is installed, decodes faster; photographs need it to be resized.
"""

import importlib.util
import io
from typing import Any

import numpy as np

from hpfree_jax._errors import UserError

HAS_OPENCV = importlib.util.find_spec("cv2") is not None


class CorruptExampleError(ValueError):
    """A record or an image that is damaged; the message says how."""


def opencv(why: str) -> Any:
    """Returns the module ``cv2``; raises UserError if it is missing."""
    if not HAS_OPENCV:
        raise UserError(
            f"{why} needs OpenCV, which is not installed; run "
            "pip install 'hpfree-jax[imagenet]'"
        )
    import cv2

    return cv2


def encode_png(pixels: np.ndarray) -> bytes:
    """Encodes a grey ``(height, width[, 1])`` or an RGB image.

    TFDS would encode arrays with TensorFlow; encoded bytes it stores as they are.
    """
    from PIL import Image

    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "png")
    return stream.getvalue()


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """Encodes an RGB image with as little loss as JPEG has."""
    cv2 = opencv("an image of ImageNet that is no RGB JPEG")
    quality = [cv2.IMWRITE_JPEG_QUALITY, 100]
    blue_first = np.ascontiguousarray(pixels[..., ::-1])
    return cv2.imencode(".jpg", blue_first, quality)[1].tobytes()


def decode_image(encoded: bytes, channels: int) -> np.ndarray:
    """Decodes a JPEG or PNG image to bytes, ``(height, width, channels)``, RGB.

    The orientation that a camera wrote beside the pixels is ignored, as the sources
    do. A JPEG that was cut off is an error here; OpenCV would fill it with grey.

    Raises:
      CorruptExampleError: if it is not an image, or only part of one.
    """
    if encoded[:2] == b"\xff\xd8" and encoded.rfind(b"\xff\xd9", len(encoded) // 2) < 0:
        raise CorruptExampleError("the JPEG image has no end")
    decode = _decode_with_opencv if HAS_OPENCV else _decode_with_pillow
    return decode(encoded, channels)


def _decode_with_opencv(encoded: bytes, channels: int) -> np.ndarray:
    import cv2

    colour = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:
        raise CorruptExampleError(f"no image ({error})") from error
    if image is None:
        raise CorruptExampleError("no image that OpenCV can decode")
    return image[..., None] if channels == 1 else image[..., ::-1]


def _decode_with_pillow(encoded: bytes, channels: int) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as stored:
            image = np.asarray(stored.convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # whatever Pillow makes of damaged bytes
        raise CorruptExampleError("no image that Pillow can decode") from error
    return image[..., None] if channels == 1 else image
