"""How large a dense Jacobian may be."""

import math

MAX_ELEMENTS = 2**27  # 1 GiB of float64


def check_size(function: str, shape: tuple[int, ...], max_elements: int, instead: str) -> None:
    """Refuse a dense Jacobian of more than `max_elements` numbers."""
    elements = math.prod(shape)
    if elements > max_elements:
        raise ValueError(
            f"jacobian.{function}: the dense Jacobian must have at most `max_elements` = "
            f"{max_elements} numbers; got shape {shape}, {elements} of them. Take fewer samples, "
            f"allow more, or do without: {instead}."
        )
