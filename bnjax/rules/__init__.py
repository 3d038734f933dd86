"""The derivatives of batch normalization, derived: one page each, over one forward.

`forward` (y and the moments), `vjp` (the pull-back), `jvp` (the push-forward), `vmapped` (the same
across an axis of `vmap`), `given` (statistics that do not come from the batch), `correction` (what
batch renormalization adds to all of them but the last). Arguments are checked in `norm`. Here γ, β
and all statistics are vectors over the channels in the sums' dtype, weights have x's rank, and x
has its own shape.
"""

from bnjax.rules.forward import MASKED, RuleConfig, normalize_by_autodiff
from bnjax.rules.given import normalize_with
from bnjax.rules.jvp import normalize_by_jvp
from bnjax.rules.vjp import normalize_by_vjp
from bnjax.rules.vmapped import normalize_over_vmap

RULES = {"vjp": normalize_by_vjp, "jvp": normalize_by_jvp, "autodiff": normalize_by_autodiff}

__all__ = ["MASKED", "RULES", "RuleConfig", "normalize_over_vmap", "normalize_with"]
