"""From a source of data to arrays that are ready for training.

The modules: `sources` (by name or by path), `table`, `npz` and `idx` (one format each), `raw` (what
they return), `encoding` (labels), `splitting`, `scaling`, `loading` (all of it together).
"""

from bnjax.app.data.encoding import encode_known
from bnjax.app.data.loading import Data, absolute, digest, load
from bnjax.app.data.scaling import SCALES
from bnjax.app.data.sources import read, read_samples

__all__ = [
    "SCALES",
    "Data",
    "absolute",
    "digest",
    "encode_known",
    "load",
    "read",
    "read_samples",
]
