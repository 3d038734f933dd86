"""Batch normalization in NumPy float64, straight from the equations: what everything is held to."""

import numpy as np


def batch_norm(x, gamma=1.0, beta=0.0, *, axis=(-1,), eps=1e-5, weights=None):
    """BN.2, BN.3 and D.17: (y, mean, var, n, x_hat, r), per-channel parts with kept axes."""
    x = np.asarray(x, np.float64)
    features = {a % x.ndim for a in axis}
    samples = tuple(a for a in range(x.ndim) if a not in features)
    kept = [x.shape[a] if a in features else 1 for a in range(x.ndim)]
    w = np.broadcast_to(
        np.ones(()) if weights is None else np.asarray(weights, np.float64), x.shape
    )
    x = np.where(w > 0, x, 0)
    n = w.sum(samples, keepdims=True)
    safe = np.where(n > 0, n, 1)
    mean = (w * x).sum(samples, keepdims=True) / safe
    var = (w * (x - mean) ** 2).sum(samples, keepdims=True) / safe
    total = var + eps
    r = np.where(total > 0, 1 / np.sqrt(np.where(total > 0, total, 1)), 0)
    x_hat = np.where(w > 0, (x - mean) * r, 0)
    gamma, beta = (
        np.broadcast_to(np.reshape(v, kept) if np.ndim(v) else v, kept) for v in (gamma, beta)
    )
    return gamma * x_hat + beta, mean, var, n, x_hat, r


def effective_count(x, *, axis=(-1,), weights=None):
    """(Σ w)²/Σ w² of P.2 per channel with kept axes; 0 without weight."""
    features = {a % np.ndim(x) for a in axis}
    samples = tuple(a for a in range(np.ndim(x)) if a not in features)
    w = np.broadcast_to(1.0 if weights is None else np.asarray(weights, np.float64), np.shape(x))
    total, squares = w.sum(samples, keepdims=True), (w * w).sum(samples, keepdims=True)
    return total**2 / np.where(squares > 0, squares, 1)


def pull_back(
    x, y_bar, gamma=1.0, *, axis=(-1,), eps=1e-5, weights=None, mean_bar=0.0, var_bar=0.0
):
    """D.5, D.7, D.17: (x_bar, gamma_bar, beta_bar), per-channel parts with kept axes."""
    x, y_bar = np.asarray(x, np.float64), np.asarray(y_bar, np.float64)
    features = {a % x.ndim for a in axis}
    samples = tuple(a for a in range(x.ndim) if a not in features)
    kept = [x.shape[a] if a in features else 1 for a in range(x.ndim)]
    w = np.broadcast_to(
        np.ones(()) if weights is None else np.asarray(weights, np.float64), x.shape
    )
    _, mean, _, n, x_hat, r = batch_norm(x, axis=axis, eps=eps, weights=weights)
    n = np.where(n > 0, n, 1)
    gamma, mean_bar, var_bar = (
        np.reshape(v, kept) if np.ndim(v) else v for v in (gamma, mean_bar, var_bar)
    )
    t = np.where(w > 0, y_bar, 0)
    along_ones = t.sum(samples, keepdims=True)
    along_x_hat = (t * x_hat).sum(samples, keepdims=True)
    x_bar = gamma * r * (t - w / n * along_ones - w * x_hat / n * along_x_hat)
    x_bar += w / n * (mean_bar + 2 * var_bar * np.where(w > 0, np.where(w > 0, x, 0) - mean, 0))
    return x_bar, along_x_hat, y_bar.sum(samples, keepdims=True)


def renorm(x, mean, var, gamma=1.0, beta=0.0, y_bar=0.0, *, r_max=3.0, d_max=5.0, **how):
    """R.1, D.17: y, the pull-back (x_bar, gamma_bar, beta_bar), λ and τ; vectors with kept axes.

    `how` is that of `batch_norm`.
    """
    kept = batch_norm(x, **how)[1].shape
    _, mu, _, n, x_hat, r = batch_norm(x, **how)
    mean, var, gamma, beta, r_max, d_max = (
        np.broadcast_to(np.reshape(np.asarray(v, np.float64), kept if np.ndim(v) else ()), kept)
        for v in (mean, var, gamma, beta, r_max, d_max)
    )
    total = var + how.get("eps", 1e-5)
    given_r = np.where(total > 0, 1 / np.sqrt(np.where(total > 0, total, 1)), 0)
    ratio = np.clip(given_r / np.where(r > 0, r, 1), 1 / r_max, r_max)
    ratio = np.where((r > 0) & (n > 0), ratio, 1)
    offset = np.where(n > 0, np.clip((mu - mean) * given_r, -d_max, d_max), 0)
    weights = how.get("weights")
    w = np.broadcast_to(1.0 if weights is None else np.asarray(weights, np.float64), np.shape(x))
    corrected = np.where(w > 0, ratio * x_hat + offset, 0)
    y_bar = np.broadcast_to(np.asarray(y_bar, np.float64), np.shape(x))
    x_bar = pull_back(x, y_bar, gamma * ratio, **how)[0]
    samples = tuple(a for a, size in enumerate(kept) if a not in _features(x, **how))
    gamma_bar = (y_bar * corrected).sum(samples, keepdims=True)
    pulled = x_bar, gamma_bar, y_bar.sum(samples, keepdims=True)
    return gamma * corrected + beta, pulled, ratio, offset


def _features(x, *, axis=(-1,), **_):
    return {a % np.ndim(x) for a in axis}


def relative(got, want):
    """|got − want| / |want|, as norms."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    size = np.linalg.norm(want)
    return np.linalg.norm(got - want) / (size if size else 1.0)
