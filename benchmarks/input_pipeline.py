"""Speed of the input pipelines, and what they add to a training step.

    python benchmarks/input_pipeline.py --data-dir ~/tensorflow_datasets [--seconds 5]

1. CIFAR-10 streamed from its files: images per second, and processor time per image.
2. CIFAR-10 on the device: time of a training step that gathers, augments and normalises
   its batch beside that of one whose batch is ready, in turns.
3. Photographs of ImageNet's size, generated: images per second beside those that OpenCV
   decodes with the same threads, and how long a step waits whose model is slower than
   the decoder. That model sleeps, as one on an accelerator leaves the processor alone.
"""

import argparse
import contextlib
import io
import os
import statistics
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import hpfree_jax as hp
from hpfree_jax.data import Dataset, load_dataset, open_stream
from hpfree_jax.data._codec import decode_image
from hpfree_jax.models import build_model

CLASS = "n01440764"  # any of ImageNet's


def rate_of(stream, batch_size: int, seconds: float) -> tuple[float, float]:
    """Returns images per second, and microseconds of processor time per image."""
    next(stream)
    begin, processor, images = time.perf_counter(), time.process_time(), 0
    while (elapsed := time.perf_counter() - begin) < seconds:
        next(stream)
        images += batch_size
    return images / elapsed, (time.process_time() - processor) / images * 1e6


def stream_cifar10(data_dir: Path, seconds: float) -> None:
    data = open_stream("cifar10", data_dir)
    for workers in (1, 2):
        stream = data.train_batches(256, seed=0, workers=workers)
        rate, processor = rate_of(stream, 256, seconds)
        stream.close()
        print(
            f"cifar10 streamed, {workers} threads: {rate:,.0f} images/s "
            f"({processor:.0f} us of processor time each)"
        )


def resident_cifar10(data_dir: Path, seconds: float) -> None:
    data = load_dataset("cifar10", data_dir)
    arrays = jax.device_put(data.train_arrays)
    for name in ("lenet5", "fcn"):
        ready, own = step_seconds(data, arrays, name, 128, seconds)
        print(
            f"cifar10 on the device, {name}, batch 128: step {ready * 1e3:.2f} ms with "
            f"a ready batch, {own * 1e3:.2f} ms with its own: {own / ready - 1:+.1%}"
        )


def step_seconds(
    data: Dataset, arrays, name: str, batch_size: int, seconds: float
) -> tuple[float, float]:
    """Returns the medians of steps with a ready batch, and with their own."""
    key = jax.random.key(0)
    rngs = nnx.Rngs(0)
    model = build_model(name, data.input_shape, data.num_classes, rngs=rngs)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    tx = hp.agd()
    opt_state = tx.init(params)
    order = data.epoch_order(key)

    def update(params, opt_state, inputs, labels):
        def loss(params):
            outputs = nnx.merge(graph, params, rest, copy=True)(inputs)
            each = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
            return jnp.mean(each)

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def update_with_own_batch(params, opt_state, arrays, order, step):
        position = step * batch_size
        index = jax.lax.dynamic_slice_in_dim(order, position, batch_size)
        batch = data.take(arrays, index)
        inputs = data.prepare(batch.inputs, jax.random.fold_in(key, step))
        return update(params, opt_state, inputs, batch.targets)

    batch = data.take(arrays, order[:batch_size])
    ready = (data.prepare(batch.inputs), batch.targets)
    with_ready, with_own = jax.jit(update), jax.jit(update_with_own_batch)
    times = ([], [])
    end, step = time.perf_counter() + 2 * seconds, 0
    while time.perf_counter() < end or step < 10:
        number = jnp.int32(step % (data.num_train // batch_size))
        for kind, run in enumerate(
            (
                lambda: with_ready(params, opt_state, *ready),
                lambda: with_own(params, opt_state, arrays, order, number),  # noqa: B023
            )
        ):
            begin = time.perf_counter()
            jax.block_until_ready(run())
            times[kind].append(time.perf_counter() - begin)
        step += 1
    return statistics.median(times[0][2:]), statistics.median(times[1][2:])


def write_photographs(folder: Path, number: int) -> list[bytes]:
    """Writes ImageNet's two archives with images of 500 x 375 pixels, about 110 kB."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(number):
        image = np.zeros((375, 500, 3), np.float32)
        for octave in range(1, 8):
            size = (2**octave, 2**octave, 3)
            noise = rng.standard_normal(size, np.float32) * 70 * 0.75**octave
            image += cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC)
        image += rng.standard_normal(image.shape, np.float32) * 8 + 128
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
        images.append(cv2.imencode(".jpg", pixels, quality)[1].tobytes())
    manual = folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    inner = io.BytesIO()
    files = {f"{CLASS}_{i}.JPEG": image for i, image in enumerate(images)}
    _write_tar(inner, files)
    for name, content in (
        ("train", {f"{CLASS}.tar": inner.getvalue()}),
        ("val", {f"ILSVRC2012_val_{i:08}.JPEG": images[i] for i in range(2)}),
    ):
        with (manual / f"ILSVRC2012_img_{name}.tar").open("wb") as file:
            _write_tar(file, content)
    return images


def _write_tar(file, files: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def decoding_rate(
    images: list[bytes], workers: int, seconds: float
) -> tuple[float, float]:
    """As :func:`rate_of`, of threads that decode and do nothing else."""
    with ThreadPoolExecutor(workers) as threads:
        begin, processor, done = time.perf_counter(), time.process_time(), 0
        while (elapsed := time.perf_counter() - begin) < seconds:
            list(threads.map(lambda image: decode_image(image, 3), images))
            done += len(images)
        return done / elapsed, (time.process_time() - processor) / done * 1e6


def stream_photographs(seconds: float, workers: int) -> None:
    batch_size = 32
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_photographs(folder, 128)
        hidden = io.StringIO()
        with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
            data = open_stream("imagenet2012", folder)
        kilobytes = statistics.mean(map(len, images)) / 1000
        decoder, decoding = decoding_rate(images, workers, seconds)
        stream = data.train_batches(batch_size, seed=0, workers=workers)
        rate, processor = rate_of(stream, batch_size, seconds)
        print(
            f"photographs (500 x 375, {kilobytes:.0f} kB), {workers} threads: "
            f"{rate:,.0f} images/s ({processor:,.0f} us of processor time each); "
            f"OpenCV alone decodes {decoder:,.0f}/s ({decoding:,.0f} us)"
        )
        for slower in (1.5, 3.0):
            next(stream)
            step_seconds = slower * batch_size / rate
            waited, steps = stream.stall_seconds, 0
            end = time.perf_counter() + 2 * seconds
            while time.perf_counter() < end:
                time.sleep(step_seconds)
                next(stream)
                steps += 1
            stall = (stream.stall_seconds - waited) / steps
            print(
                f"  a model {slower} times slower than that: waits "
                f"{stall * 1e3:.2f} ms a step of {step_seconds * 1e3:.0f} ms "
                f"({stall / step_seconds:.2%})"
            )
        stream.close()


def main():
    """Runs the benchmarks and prints their figures."""
    parser = argparse.ArgumentParser(description="Speed of the input pipelines")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measure")
    options = parser.parse_args()
    cores = os.cpu_count()
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f} before")
    stream_cifar10(options.data_dir, options.seconds)
    resident_cifar10(options.data_dir, options.seconds)
    stream_photographs(options.seconds, workers=min(cores or 1, 16))


if __name__ == "__main__":
    main()
