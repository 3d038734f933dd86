"""Options of other libraries: their weight in the running average and ε, to and from ours.

Our `decay` is d of P.7, the weight on the old value.

Source: the libraries' own code (PyTorch 2.13, flax 0.12, Keras 3.15, dm-haiku 0.0.17).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bnjax._checks import finite_eps, unknown_name


class Options(NamedTuple):
    """The options of a normalization; `Network(sizes, **options._asdict())` takes them.

    Attributes:
        decay: d, the weight on the old statistics, in [0, 1); None: the cumulative average.
        eps: ε ≥ 0.
    """

    decay: float | None
    eps: float


# what each library calls the weight in its average, and ε
_OPTION_NAMES = {
    "flax": ("momentum", "epsilon"),
    "haiku": ("decay_rate", "eps"),
    "keras": ("momentum", "epsilon"),
    "torch": ("momentum", "eps"),
}


def options_from(library: str, settings: Mapping[str, Any]) -> Options:
    """Return another library's options as decay and ε.

    Args:
        library: "torch", "flax" (linen and nnx), "keras" or "haiku".
        settings: The library's own names and values; others than these two are ignored. For a
            layer of PyTorch or flax, pass `vars(layer)`; for one of Keras, `layer.get_config()`.

    Returns:
        decay, which is 1 − momentum for PyTorch (None for momentum=None) and the library's own
        number for the others, and eps. No default is assumed: libraries differ in them.

    Raises:
        ValueError: The library is unknown, a setting is missing, or a value is outside its range.
            That includes weights with which statistics never change: a momentum of 0 in PyTorch,
            of 1 in the others.

    Example:
        >>> options_from("keras", {"momentum": 0.99, "epsilon": 0.001})
        Options(decay=0.99, eps=0.001)
        >>> options_from("torch", {"momentum": 0.25, "eps": 1e-5})
        Options(decay=0.75, eps=1e-05)
    """
    function = "conversion.options_from"
    names = _option_names(function, library)
    require_keys(function, "settings", settings, names)
    weight, eps = (settings[name] for name in names)
    finite_eps(function, eps)
    if library == "torch" and weight is None:
        return Options(None, eps)
    on_new = library == "torch"
    fits = _is_python_number(weight) and (0 < weight <= 1 if on_new else 0 <= weight < 1)
    if not fits:
        required, value = ("None or in (0, 1]", "new") if on_new else ("in [0, 1)", "old")
        raise ValueError(
            f"{function}: `{names[0]}` of {library}, the weight on the {value} value, must be "
            f"{required}; got {weight!r}. If the layer's statistics are not to change, evaluate "
            "with them: that needs no such weight."
        )
    return Options(1 - weight if on_new else weight, eps)


def options_to(library: str, options: Options) -> dict[str, float | None]:
    """Return decay and ε as another library's arguments.

    Args:
        library: "torch", "flax" (linen and nnx), "keras" or "haiku".
        options: decay and eps. Only PyTorch has the cumulative average, decay=None.

    Returns:
        Keyword arguments for the library's layer.

    Raises:
        ValueError: The library is unknown or has no such average, or decay or eps is outside its
            range.

    Example:
        >>> print(options_to("flax", Options(decay=0.9, eps=1e-5)))
        {'momentum': 0.9, 'epsilon': 1e-05}
        >>> print(options_to("torch", Options(decay=0.75, eps=1e-5)))
        {'momentum': 0.25, 'eps': 1e-05}
    """
    function = "conversion.options_to"
    names = _option_names(function, library)
    decay, eps = options
    finite_eps(function, eps)
    if decay is None:
        if library != "torch":
            raise ValueError(
                f"{function}: `decay` must be a number for {library}, which has no cumulative "
                "average; got None. Choose the weight on the old value for further updates."
            )
        return dict(zip(names, (None, eps), strict=True))
    check_decay(function, decay)
    return dict(zip(names, (1 - decay if library == "torch" else decay, eps), strict=True))


def _option_names(function: str, library: str) -> tuple[str, str]:
    if library not in _OPTION_NAMES:
        raise ValueError(unknown_name(function, "library", library, _OPTION_NAMES))
    return _OPTION_NAMES[library]


def require_keys(
    function: str, argument: str, mapping: Mapping[str, Any], keys: tuple[str, ...]
) -> None:
    """Raise a ValueError if a mapping lacks a key."""
    missing = [key for key in keys if key not in mapping]
    if missing:
        raise ValueError(
            f"{function}: `{argument}` must have {' and '.join(map(repr, keys))}; "
            f"got {', '.join(map(repr, mapping)) or 'none'}."
        )


def check_decay(function: str, decay: float) -> None:
    """Raise a ValueError unless `decay` is a number in [0, 1)."""
    if not _is_python_number(decay) or not 0 <= decay < 1:
        raise ValueError(
            f"{function}: `decay`, the weight on the old value, must be in [0, 1); got {decay!r}."
        )


def _is_python_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
