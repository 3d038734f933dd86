from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import quick_jit

from bnjax import batch_norm, jacobian
from bnjax.activations import ACTIVATIONS

rng = np.random.default_rng(0)
B, N_IN, N = 6, 4, 3
X, T, GAMMA = (jnp.asarray(rng.normal(size=shape)) for shape in ((B, N), (B, N), N))
U, W = jnp.asarray(rng.normal(size=(B, N_IN))), jnp.asarray(rng.normal(size=(N_IN, N)))
EPS = pytest.mark.parametrize("eps", [0.0, pytest.param(1e-5, marks=pytest.mark.slow), 0.5])
GAMMAS = pytest.mark.parametrize("gamma", [None, GAMMA], ids=["no γ", "γ"])
close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13)


def diagonal(a, axis):
    """Keep what joins a neuron with itself, and see that the rest is zero; it comes last."""
    kept = np.moveaxis(np.diagonal(a, axis1=1, axis2=axis), -1, -1)
    assert np.abs(a).sum() - np.abs(kept).sum() < 1e-9
    return kept


@GAMMAS
@EPS
def test_the_kernel_is_the_jacobian_of_the_reference(eps, gamma):
    ours, full = quick_jit(
        lambda x: (
            jacobian.kernel(x, gamma, eps=eps),
            jax.jacfwd(lambda x: batch_norm(x, gamma, eps=eps, rule="autodiff")[0])(x),
        )
    )(X)
    close(ours, diagonal(full, 3))  # D.2
    close(ours, np.swapaxes(ours, 0, 1))  # D.3


@GAMMAS
@EPS
def test_products_are_those_of_the_dense_array(eps, gamma):
    ours, dense = quick_jit(
        lambda: (
            jacobian.kernel_product(T, X, gamma, eps=eps),
            jacobian.kernel(X, gamma, eps=eps),
        )
    )()
    close(ours, np.einsum("sti,ti->si", dense, T))  # D.4


@pytest.mark.parametrize("batch", [2, B])
@EPS
def test_the_spectrum_is_that_of_the_matrix(eps, batch):
    # a constant channel too: at ε = 0 nothing is defined there, and M removes the mean only
    x = X[:batch].at[:, 1].set(3.0)
    matrix, spectrum = quick_jit(
        lambda x: (jacobian.mixing_matrix(x, eps=eps), jacobian.kernel_eigenvalues(x, eps=eps))
    )(x)
    matrix = np.asarray(matrix)
    for i in range(N):
        found = np.linalg.eigh(matrix[..., i])[0]
        close(np.sort(spectrum.values[:, i]), found, atol=1e-12)
        close(matrix[..., i] @ spectrum.ones, spectrum.values[0, i] * np.ones(batch), atol=1e-12)
        x_hat = spectrum.x_hat[:, i]
        close(matrix[..., i] @ x_hat, spectrum.values[1, i] * x_hat, atol=1e-12)
    if eps == 0:
        close(np.einsum("sti,tvi->svi", matrix, matrix), matrix)  # a projector


@GAMMAS
@EPS
def test_the_weight_jacobian_is_that_of_the_reference(eps, gamma):
    def y(W):
        return batch_norm(U @ W, gamma, eps=eps, rule="autodiff")[0]

    ours, full = quick_jit(
        lambda W: (jacobian.weight_jacobian(U, W, gamma, eps=eps), jax.jacfwd(y)(W))
    )(W)
    close(ours, diagonal(full, 3))  # D.8


@GAMMAS
def test_the_frozen_weight_jacobian_lets_nothing_through_the_statistics(gamma):
    def y(W):
        x = U @ W
        _, moments = jax.lax.stop_gradient(batch_norm(x, rule="autodiff"))
        x_hat = (x - moments.mean[None]) / jnp.sqrt(moments.var + 1e-5)[None]
        return x_hat if gamma is None else gamma[None] * x_hat

    ours, full = quick_jit(
        lambda W: (jacobian.frozen_weight_jacobian(U, W, gamma), jax.jacfwd(y)(W))
    )(W)
    close(ours, diagonal(full, 3))  # D.13


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_activation_jacobian_is_diagonal(name):
    ours, wanted = quick_jit(
        lambda x: (
            jacobian.activation_jacobian(x, name),
            jax.vmap(jax.jacfwd(ACTIVATIONS[name].g))(x),
        )
    )(X)
    close(ours, wanted)  # D.14


def test_the_jacobians_in_gamma_and_beta_are_those_of_the_reference():
    wanted = quick_jit(jax.jacfwd(partial(batch_norm, rule="autodiff"), (1, 2)))(X, GAMMA, GAMMA)[0]
    close(jacobian.gamma_jacobian(X), wanted[0])  # D.15
    close(jacobian.beta_jacobian(B, N), wanted[1])  # D.16


def test_nan_in_one_neuron_is_none_of_the_others():
    x = X.at[0, 1].set(jnp.nan)
    for found in (jacobian.gamma_jacobian(x)[:, 0], jacobian.gamma_jacobian(x)[:, 2]):
        assert not jnp.any(jnp.isnan(found))
    assert jnp.isnan(jacobian.activation_jacobian(x, "tanh")).sum() == 1


def test_single_precision_is_exact_under_an_offset():
    x = (X + 1e4).astype("float32")
    kernel = jax.jit(jacobian.kernel)
    ours = kernel(x, GAMMA.astype("float32"))
    assert ours.dtype == jnp.float32
    wanted = np.asarray(kernel(x.astype(float), GAMMA))
    assert np.linalg.norm(ours - wanted) < 1e-6 * np.linalg.norm(wanted)


def test_half_precision_gives_single():
    half = X.astype("bfloat16")
    assert jax.eval_shape(jacobian.kernel, half).dtype == jnp.float32
    weights = U.astype("bfloat16"), W.astype("bfloat16")
    assert jax.eval_shape(jacobian.weight_jacobian, *weights).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "shape", "elements"),
    [
        (lambda most: jacobian.kernel(X, max_elements=most), (6, 6, 3), 108),
        (lambda most: jacobian.mixing_matrix(X, max_elements=most), (6, 6, 3), 108),
        (lambda most: jacobian.weight_jacobian(U, W, max_elements=most), (6, 4, 3), 72),
        (lambda most: jacobian.frozen_weight_jacobian(U, W, max_elements=most), (6, 4, 3), 72),
        (lambda most: jacobian.activation_jacobian(X, "tanh", max_elements=most), (6, 3, 3), 54),
        (lambda most: jacobian.gamma_jacobian(X, max_elements=most), (6, 3, 3), 54),
        (lambda most: jacobian.beta_jacobian(B, N, max_elements=most), (6, 3, 3), 54),
    ],
)
def test_too_large_an_array_is_refused_with_a_way_out(call, shape, elements):
    assert jax.eval_shape(lambda: call(elements)).shape == shape
    with pytest.raises(ValueError) as refused:
        call(elements - 1)
    message = str(refused.value)
    assert f"`max_elements` = {elements - 1} numbers; got shape {shape}" in message
    assert f"{elements} of them. Take fewer samples, allow more, or do without: " in message


def test_the_size_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="100000, 100000, 1.*`kernel_product` is K"):
        jacobian.kernel(jnp.ones((100_000, 1)))


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"jacobian.kernel: `x` must have two axes.*got shape \(3,\)"
    ):
        jacobian.kernel(X[0])
    with pytest.raises(TypeError, match="jacobian.kernel: `x` must be floating"):
        jacobian.kernel(jnp.ones((3, 2), int))
    with pytest.raises(ValueError, match=r"jacobian.kernel: `gamma` must have shape \(3,\)"):
        jacobian.kernel(X, GAMMA[:2])
    with pytest.raises(ValueError, match="jacobian.kernel_eigenvalues: `eps` must be"):
        jacobian.kernel_eigenvalues(X, eps=-1)
    with pytest.raises(ValueError, match=r"`t` must have the shape of `x`, \(6, 3\); got \(6, 4\)"):
        jacobian.kernel_product(U, X)
    with pytest.raises(ValueError, match=r"`W` must have shape \(4, n_out\).*got \(3, 3\)"):
        jacobian.weight_jacobian(U, W[1:])
    with pytest.raises(ValueError, match="at least two values per channel"):
        jacobian.kernel(X[:1])
