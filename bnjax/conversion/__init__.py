"""Running statistics and options of other libraries, to and from `PopulationState`.

(P.2)  σ²_BN = Σ_k ν_k/(ν_k − 1) σ_k² / N_B
(P.7)  m_k = d m_(k−1) + (1 − d) μ_k,  m_0 = 0,  μ_BN ≈ m_k / (1 − d^k)

====================  ===================  =========  =========  =============  ==============
convention            PyTorch              flax       Keras      haiku          bnjax
====================  ===================  =========  =========  =============  ==============
option                momentum             momentum   momentum   decay_rate     decay
  is the weight on    new value            old value  old value  old value      old value
  default             0.1                  0.99       0.99       (required)     0.9
cumulative average    momentum=None        no         no         no             decay=None
ε                     eps                  epsilon    epsilon    eps            eps
  default             1e-5                 1e-5       1e-3       1e-5           1e-5
averaged variance     n/(n − 1) σ_B²       σ_B²       σ_B²       σ_B²           n/(n − 1) σ_B²
initial mean, var     0, 1                 0, 1       0, 1       none           none
used in evaluation    m_k                  m_k        m_k        m_k/(1 − d^k)  m_k/(1 − d^k)
k is stored in        num_batches_tracked  no         no         counter        batches
====================  ===================  =========  =========  =============  ==============

n is the number of values per channel in a batch, ν_k of P.2.

Evaluation. A `PopulationState` holds the mean and variance that are used in evaluation. The
converters import what the other library uses: `normalize` with these statistics and the library's ε
gives the library's evaluation output, and the same holds for exports. The statistics of PyTorch,
flax and Keras contain their initial values (0, 1) with weight d^k. They are not removed, since that
would change what these libraries evaluate to.

Further updates. Only updates read k; k = 0 means that no batch has been seen. After k batches,
`population.update` gives the next one the weight (1 − d)/(1 − d^(k+1)) (P.7), as haiku does, or
1/(k + 1) for decay=None, as PyTorch does for momentum=None: these two go on exactly as in their
library. flax, Keras and PyTorch with a momentum use the weight 1 − d for every k. The two agree
once d^(k+1) is below rounding (in float32 for k > 160 with d = 0.9, for k > 1700 with d = 0.99).
To go on exactly as these libraries do from fewer batches, pass such a large k.

Variance. A library's biased variance is imported and exported unchanged, unless `count` says how
many values per channel each batch had. Then imports multiply it by n/(n − 1), and exports by
(n − 1)/n. Without `count`, evaluation is the same as in the library. With it, the state holds the
variance of P.2, to which further updates add variances of the same kind.

γ and β need no converter: they are `weight` and `bias` in PyTorch, `scale` and `bias` in flax,
`gamma` and `beta` in Keras, `scale` and `offset` in haiku (of x's rank). `from_torch(model,
into=..., names=...)` fills those of a whole model, with its statistics.

The files: `torch`, `flax`, `keras` and `haiku` (one library's statistics each), `torch_models` (all
normalizations of a model), `states` (what they share), `options` (decay and ε).

Source: S3; the libraries' own code (PyTorch 2.13, flax 0.12, Keras 3.15, dm-haiku 0.0.17).
"""

from bnjax.conversion.flax import from_flax, to_flax
from bnjax.conversion.haiku import from_haiku, to_haiku
from bnjax.conversion.keras import from_keras, to_keras
from bnjax.conversion.options import Options, options_from, options_to
from bnjax.conversion.torch import from_torch, to_torch

__all__ = [
    "Options",
    "from_flax",
    "from_haiku",
    "from_keras",
    "from_torch",
    "options_from",
    "options_to",
    "to_flax",
    "to_haiku",
    "to_keras",
    "to_torch",
]
