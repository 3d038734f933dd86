"""The Jacobians of batch normalization as arrays, for looking at and for checking.

`kernels` (of y in x: D.2, D.3, D.10), `weights` (of y in W: D.8, D.13), `diagonals` (sample by
sample: D.14, D.15, D.16). Each is dense: B² n numbers for D.2, and as many as its shape says for
the others. Above `max_elements` they refuse. Products need no array: `kernel_product` is K.

Source: S0/S1 eq. 1 and 3, S4 (1)-(4).
"""

from bnjax.jacobian.diagonals import activation_jacobian, beta_jacobian, gamma_jacobian
from bnjax.jacobian.kernels import (
    Spectrum,
    kernel,
    kernel_eigenvalues,
    kernel_product,
    mixing_matrix,
)
from bnjax.jacobian.sizes import MAX_ELEMENTS
from bnjax.jacobian.weights import frozen_weight_jacobian, weight_jacobian

__all__ = [
    "MAX_ELEMENTS",
    "Spectrum",
    "activation_jacobian",
    "beta_jacobian",
    "frozen_weight_jacobian",
    "gamma_jacobian",
    "kernel",
    "kernel_eigenvalues",
    "kernel_product",
    "mixing_matrix",
    "weight_jacobian",
]
