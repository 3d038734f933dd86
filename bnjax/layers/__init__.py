"""Batch normalization as a layer of five frameworks: change one import line, keep the rest.

`linen` and `nnx` (flax), `haiku` and `equinox` have `BatchNorm`; `keras` (on JAX) has
`BatchNormalization`. Each takes the arguments of the framework's own layer, creates the same
parameters and statistics under the same names, and reads the same checkpoints. The extra of the
same name installs the framework (`flax` for linen and nnx): pip install 'bnjax[flax]'.

Neither `import bnjax` nor `import bnjax.layers` loads a framework: import the module you need, as
in `from bnjax.layers.linen import BatchNorm`. `common` holds what the layers share. Where a layer
differs from the framework's own, and why: docs/differences.md.
"""
