import numpy as np
import pytest

from hpfree_jax.data import _codec, load_dataset, open_stream
from hpfree_jax.data._codec import CorruptExampleError, decode_image, encode_png

PIXELS = {
    channels: np.random.default_rng(0).integers(256, size=(5, 7, channels), dtype="u1")
    for channels in (1, 3)
}


@pytest.fixture(params=[True, False], ids=["opencv", "pillow"])
def has_opencv(request, monkeypatch):
    monkeypatch.setattr(_codec, "HAS_OPENCV", request.param)
    return request.param


@pytest.mark.parametrize("channels", PIXELS)
def test_a_png_image_is_decoded_to_its_pixels(has_opencv, channels):
    pixels = PIXELS[channels]
    np.testing.assert_array_equal(decode_image(encode_png(pixels), channels), pixels)


@pytest.mark.parametrize("size", [0, 4, 40, 90])
def test_part_of_an_image_is_damaged(has_opencv, size):
    encoded = encode_png(PIXELS[3])
    assert len(encoded) > 100
    with pytest.raises(CorruptExampleError, match="no image"):
        decode_image(encoded[:size], 3)


def test_both_decoders_agree_on_a_jpeg(monkeypatch):
    smooth = np.add.outer(np.arange(16), np.arange(24))[..., None] * np.array([1, 2, 3])
    encoded = _codec.encode_jpeg(smooth.astype(np.uint8))
    ours = decode_image(encoded, 3).astype(int)
    monkeypatch.setattr(_codec, "HAS_OPENCV", False)
    assert np.abs(decode_image(encoded, 3) - ours).max() <= 2


def test_without_opencv_digits_are_read_and_photographs_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(_codec, "HAS_OPENCV", False)
    assert load_dataset("digits", tmp_path).num_train == 1438
    with pytest.raises(
        ValueError, match=r"imagenet2012 needs .*hpfree-jax\[imagenet\]"
    ):
        open_stream("imagenet2012", tmp_path)
