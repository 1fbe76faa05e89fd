"""AutoWU in plain NumPy and float64, one loss at a time, on dense matrices.

Written from the paper and from the conventions that the recorded runs state, and not
from the library. Up to 100 losses, so that nothing is drawn.
"""

import math

import numpy as np
from scipy.special import expit, ndtr

NOISE_FLOOR = 1e-4
WARMUP, DECAY, COOLDOWN = 0, 1, 2


class Process:
    """The Gaussian process and Adam's state, which persist from test to test."""

    def __init__(self, lengthscale):
        self.lengthscale = lengthscale
        self.raw_noise = math.log(math.expm1(1e-3 - NOISE_FLOOR))
        self.raw_outputscale = 0.0
        self.count, self.first, self.second = 0, np.zeros(3), np.zeros(3)

    def kernel(self, a, b):
        return np.exp(-((a[:, None] - b) ** 2) / (2 * self.lengthscale**2))

    def fit(self, x, y, num_steps):
        """Steps of Adam at the rate 0.01 on -log p(y) / n, the mean from that of y."""
        vector = np.array([self.raw_noise, y.mean(), self.raw_outputscale])
        eigenvalues, basis = np.linalg.eigh(self.kernel(x, x))
        y, one = basis.T @ y, basis.T @ np.ones_like(x)
        for _ in range(num_steps):
            noise = NOISE_FLOOR + np.logaddexp(0, vector[0])
            variance = np.logaddexp(0, vector[2]) * eigenvalues + noise
            weighted = (y - vector[1] * one) / variance
            slopes = (1 / variance - weighted**2) / 2
            gradient = [slopes.sum(), -one @ weighted, slopes @ eigenvalues]
            gradient *= np.array([expit(vector[0]), 1, expit(vector[2])]) / len(x)
            self.count += 1
            self.first = 0.9 * self.first + 0.1 * gradient
            self.second = 0.999 * self.second + 0.001 * gradient**2
            first = self.first / (1 - 0.9**self.count)
            second = self.second / (1 - 0.999**self.count)
            vector = vector - 0.01 * first / (np.sqrt(second) + 1e-8)
        self.raw_noise, self.mean, self.raw_outputscale = vector

    def test(self, x, y, num_points):
        """Returns (probability of having passed the minimum, where it is in [0, 1])."""
        noise = NOISE_FLOOR + np.logaddexp(0, self.raw_noise)
        scale = np.logaddexp(0, self.raw_outputscale)
        grid = np.linspace(0, 1, num_points)
        covariance = scale * self.kernel(x, x) + noise * np.eye(len(x))
        cross = scale * self.kernel(grid, x)
        mean = self.mean + cross @ np.linalg.solve(covariance, y - self.mean)
        posterior = scale * self.kernel(grid, grid)
        posterior -= cross @ np.linalg.solve(covariance, cross.T)
        variance = np.diag(posterior) + posterior[-1, -1] - 2 * posterior[:, -1] + 1e-4
        z = (mean[-1] - mean[:-1]) / np.sqrt(variance[:-1])
        return ndtr(z).max(), grid[mean.argmin()]


def run(
    losses,
    total_steps,
    steps_per_epoch,
    min_learning_rate=1e-5,
    max_learning_rate=1.0,
    max_warmup_fraction=0.5,
    warmup_unit="step",
    warmup_type="exponential",
    immediate_cooldown=False,
    decay_stat=None,
    decay_factor=1.0,
    cooldown_fraction=0.2,
    cooldown_type="cosine",
    lengthscale=0.2,
    confidence=0.95,
    patience=3,
    fit_steps=100,
    predict_points=500,
    test_every=None,
    decays_once=False,
):
    """Returns (the rate of each call, the phase after each call, switch step).

    ``decays_once`` is the original's: without ``decay_stat``, the factor acts at a
    switch that a test makes, and never again.
    """
    warmup_steps = int(max_warmup_fraction * total_steps)
    length = warmup_steps
    if warmup_unit == "epoch":
        length = int(max_warmup_fraction * total_steps / steps_per_epoch)
    low, ratio = min_learning_rate, max_learning_rate / min_learning_rate
    process, votes, seen = Process(lengthscale), [], []
    phase, rate, switch, start, base = WARMUP, low, 0, 0, 0.0
    epoch, best, num_bad = [], math.inf, 0
    rates, phases = [], []

    def curve(share):
        if warmup_type == "exponential":
            return low * ratio**share
        return low * (1 - share + ratio * share)

    if length == 0:
        rate = base = curve(1)
        phase = COOLDOWN if immediate_cooldown else DECAY
    for count, loss in enumerate(losses, 1):
        rates.append(rate)
        ends_epoch = is_over = False
        if count >= (1 - cooldown_fraction) * total_steps and phase != COOLDOWN:
            switch = count if phase == WARMUP else switch
            phase, start, base = COOLDOWN, count, rate
        elif phase == WARMUP and count >= warmup_steps:
            is_over = True
        elif phase != COOLDOWN:
            seen.append(loss)
            epoch.append(loss)
            ends_epoch = len(seen) % steps_per_epoch == 0
            if phase == WARMUP and len(seen) % (test_every or steps_per_epoch) == 0:
                x, y = np.arange(len(seen)) / len(seen), np.array(seen)
                x, y = x[np.isfinite(y)], y[np.isfinite(y)]
                process.fit(x, y, fit_steps)
                probability, position = process.test(x, y, predict_points)
                votes.append(probability > confidence)
                if len(votes) >= patience and all(votes[-patience:]):
                    behind = len(seen) - 1
                    if warmup_unit == "epoch":
                        behind //= steps_per_epoch
                    is_over, rate = True, curve(position * behind / length)
        if is_over:
            switch, phase = count, DECAY
            if immediate_cooldown:
                phase, start, base = COOLDOWN, count, rate
        if phase == WARMUP:
            advances = len(seen)
            if warmup_unit == "epoch":
                advances //= steps_per_epoch
            rate = curve(advances / length)
        elif phase == DECAY and ends_epoch and decay_stat is None:
            rate *= decay_factor if is_over or not decays_once else 1
        elif phase == DECAY and ends_epoch and not is_over:
            if np.mean(epoch) < best - (abs(best) * 1e-4 if best < math.inf else 0):
                best, num_bad = np.mean(epoch), 0
            else:
                num_bad += 1
            if num_bad > 5:
                rate, num_bad = rate * decay_factor, 0
        elif phase == COOLDOWN and total_steps > start:
            # At a call that begins it, the first step is already made.
            step = count - start + (start > 0)
            share = min(step / (total_steps - start), 1)
            if cooldown_type == "cosine":
                rate = base * (1 + math.cos(math.pi * share)) / 2
            else:
                rate = base * (1 - math.sin(math.pi / 2 * share))
                rate /= 2 if cooldown_type == "half_cosine_legacy" else 1
        epoch = [] if ends_epoch else epoch
        phases.append(phase)
    return np.array(rates), np.array(phases), switch
