"""Running statistics and options of other libraries, to and from `PopulationState`.

(P.2)  σ²_BN = mean over mini-batches of n/(n − 1) σ_B²
(P.7)  m_k = d m_(k−1) + (1 − d) μ_k, read as m_k / (1 − d^k)

====================  ===================  =========  =========  =============  ==============
convention            PyTorch              flax       Keras      haiku          bnjax
====================  ===================  =========  =========  =============  ==============
option                momentum             momentum   momentum   decay_rate     decay
is the weight on the  new value            old value  old value  old value      old value
and by default        0.1                  0.99       0.99       (required)     0.9
cumulative average    momentum=None        no         no         no             decay=None
ε                     eps                  epsilon    epsilon    eps            eps
and by default        1e-5                 1e-5       1e-3       1e-5           1e-5
averages as variance  n/(n − 1) σ_B²       σ_B²       σ_B²       σ_B²           n/(n − 1) σ_B²
starts from           0, 1                 0, 1       0, 1       nothing        nothing
and reads             m_k                  m_k        m_k        m_k/(1 − d^k)  m_k/(1 − d^k)
keeps k               num_batches_tracked  no         no         counter        batches
====================  ===================  =========  =========  =============  ==============

Evaluation. A `PopulationState` holds the mean and variance as they are read. What is imported is
what the other library reads: `normalize` with it and the library's ε gives that library's
evaluation output, and so the other way round. PyTorch's, flax's and Keras' statistics keep the
share d^k of their start (0, 1): taking it out would change what they evaluate to.

Going on. k is read by further updates only (k = 0 stands for a state that has seen no batch). With
k batches seen, `population.update` gives the next one the weight (1 − d)/(1 − d^(k+1)) (P.7), as
haiku does, or 1/(k + 1) for decay=None, as PyTorch does for momentum=None: these two go on here as
there. PyTorch with a momentum, flax and Keras give it 1 − d whatever k is: the same once d^(k+1) is
lost in rounding (k > 160 for d = 0.9, k > 1700 for d = 0.99, in float32). To go on just as they do
before that, import with so large a k.

The variance. Where the library averages σ_B², it is imported and exported as it is, unless `count`
says how many values per channel each batch had: then it is multiplied by n/(n − 1) on its way in,
and by (n − 1)/n on its way out. Without, evaluation is the same; with it, the state holds P.2's
variance and further updates, which bring n/(n − 1) σ_B², fit in.

γ and β need no converter: they are `weight` and `bias` in PyTorch, `scale` and `bias` in flax,
`gamma` and `beta` in Keras, `scale` and `offset` in haiku (with x's rank).

The rooms: `options` (decay and ε), `statistics` (mean, variance, number of batches).

Source: S3; the libraries' own code (PyTorch 2.13, flax 0.12, Keras 3.15, dm-haiku 0.0.17).
"""

from bnjax.conversion.options import Options, options_from, options_to
from bnjax.conversion.statistics import (
    from_flax,
    from_haiku,
    from_keras,
    from_torch,
    to_flax,
    to_haiku,
    to_keras,
    to_torch,
)

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
