"""From a source of data to arrays that are ready for training.

The modules: `sources` (by name or by path), `table` with `cells`, `npz` and `idx` (one format
each), `raw` (what they return), `encoding` (labels), `splitting`, `preparation` (from raw columns
to features, and back from outputs to predictions) with `saving`, `loading` (all of it together).
"""

from bnjax.app.data.encoding import encode_known
from bnjax.app.data.loading import BEFORE, OPTIONS, Data, absolute, digest, filled, load
from bnjax.app.data.preparation import SCALES, Preparation, Target
from bnjax.app.data.raw import MAX_SIZE, Column
from bnjax.app.data.saving import FILE, read_preparation, to_json
from bnjax.app.data.sources import MISSING, read, read_samples
from bnjax.app.data.table import as_columns

__all__ = [
    "BEFORE",
    "OPTIONS",
    "FILE",
    "MAX_SIZE",
    "MISSING",
    "SCALES",
    "Column",
    "Data",
    "Preparation",
    "Target",
    "absolute",
    "as_columns",
    "digest",
    "encode_known",
    "filled",
    "load",
    "read",
    "read_preparation",
    "read_samples",
    "to_json",
]
