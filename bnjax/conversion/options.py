"""Options of other libraries, to and from decay and ε.

decay is d of (P.7)  m_k = d m_(k−1) + (1 − d) μ_k, the weight on the old value.

Source: the libraries' own code (PyTorch 2.13, flax 0.12, Keras 3.15, dm-haiku 0.0.17).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bnjax._checks import finite_eps, unknown_name


class Options(NamedTuple):
    """What a normalization is configured with here; `Network(sizes, **options._asdict())` takes it.

    Attributes:
        decay: d, the weight on the old statistics, in [0, 1); None: the cumulative average.
        eps: ε ≥ 0.
    """

    decay: float | None
    eps: float


# what each library calls the weight in its average, and ε
_NAMES = {
    "flax": ("momentum", "epsilon"),
    "haiku": ("decay_rate", "eps"),
    "keras": ("momentum", "epsilon"),
    "torch": ("momentum", "eps"),
}


def options_from(library: str, settings: Mapping[str, Any]) -> Options:
    """Read another library's options as this one's: decay and ε.

    Args:
        library: "torch", "flax" (linen and nnx), "keras" or "haiku".
        settings: The library's own names and values; more than the two are let pass. For a layer
            of PyTorch or flax that is `vars(layer)`, for one of Keras `layer.get_config()`.

    Returns:
        decay, 1 − momentum for PyTorch (None for its momentum=None) and the library's own number
        for the others; and eps. No default is assumed: libraries differ in them.

    Raises:
        ValueError: The library is unknown, a setting is missing, or a value is outside its range:
            also a PyTorch momentum of 0 or another's of 1, which never learns.

    Example:
        >>> options_from("keras", {"momentum": 0.99, "epsilon": 0.001})
        Options(decay=0.99, eps=0.001)
        >>> options_from("torch", {"momentum": 0.25, "eps": 1e-5})
        Options(decay=0.75, eps=1e-05)
    """
    function = "conversion.options_from"
    names = _names(function, library)
    require_keys(function, "settings", settings, names)
    weight, eps = (settings[name] for name in names)
    finite_eps(function, eps)
    if library == "torch" and weight is None:
        return Options(None, eps)
    on_new = library == "torch"
    fits = _is_number(weight) and (0 < weight <= 1 if on_new else 0 <= weight < 1)
    if not fits:
        required, value = ("None or in (0, 1]", "new") if on_new else ("in [0, 1)", "old")
        raise ValueError(
            f"{function}: `{names[0]}` of {library}, the weight on the {value} value, must be "
            f"{required}; got {weight!r}. A layer that is not to learn its statistics needs none: "
            "convert those, and evaluate."
        )
    return Options(1 - weight if on_new else weight, eps)


def options_to(library: str, options: Options) -> dict[str, float | None]:
    """Write decay and ε as another library's arguments.

    Args:
        library: "torch", "flax" (linen and nnx), "keras" or "haiku".
        options: decay and eps. decay=None, the cumulative average, goes to PyTorch only.

    Returns:
        Keyword arguments for the library's layer.

    Raises:
        ValueError: The library is unknown, or has no such average; decay or eps is outside its
            range.

    Example:
        >>> print(options_to("flax", Options(decay=0.9, eps=1e-5)))
        {'momentum': 0.9, 'epsilon': 1e-05}
        >>> print(options_to("torch", Options(decay=0.75, eps=1e-5)))
        {'momentum': 0.25, 'eps': 1e-05}
    """
    function = "conversion.options_to"
    names = _names(function, library)
    decay, eps = options
    finite_eps(function, eps)
    if decay is None:
        if library != "torch":
            raise ValueError(
                f"{function}: `decay` must be a number for {library}, which has no cumulative "
                "average; got None. Choose the weight on the old value that it shall go on with."
            )
        return dict(zip(names, (None, eps), strict=True))
    check_decay(function, decay)
    return dict(zip(names, (1 - decay if library == "torch" else decay, eps), strict=True))


def _names(function: str, library: str) -> tuple[str, str]:
    if library not in _NAMES:
        raise ValueError(unknown_name(function, "library", library, _NAMES))
    return _NAMES[library]


def require_keys(
    function: str, argument: str, mapping: Mapping[str, Any], keys: tuple[str, ...]
) -> None:
    """Refuse a mapping that lacks a key."""
    missing = [key for key in keys if key not in mapping]
    if missing:
        raise ValueError(
            f"{function}: `{argument}` must have {' and '.join(map(repr, keys))}; "
            f"got {', '.join(map(repr, mapping)) or 'none'}."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_decay(function: str, decay: float) -> None:
    """Refuse a decay that is none."""
    if not _is_number(decay) or not 0 <= decay < 1:
        raise ValueError(
            f"{function}: `decay`, the weight on the old value, must be in [0, 1); got {decay!r}."
        )
