"""Numbers as one says them."""

import math


def number(value: float) -> str:
    """Write a number with three digits or more: 0.0123, 1,234, 4.57·10⁻⁶."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 100:
        value = float(f"{value:.2e}")  # 0.9996 is written as 1.00, not as 1.000
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
        return text.replace("-", "−")
    digits, exponent = f"{value:.2e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits}·10{raised}".replace("-", "−")


def times(ratio: float) -> str:
    """Write a ratio: 1.4 times, 82 times, 1,200 times; below one as its inverse: 1/89 of."""
    if ratio >= 1:
        return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.1f} times"
    return f"1/{1 / ratio:,.0f} of" if ratio <= 0.1 else f"{ratio:.2f} times"


def share(value: float) -> str:
    """Write a share: 0 %, 0.4 %, 43 %."""
    percent = 100 * value
    if percent == 0 or percent >= 9.95:
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if percent >= 0.05 else "under 0.1 %"


def sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    return f"{capital(text)}."


def capital(text: str) -> str:
    """Begin with a capital, but for Greek letters: ε is not Ε."""
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def listed(items: list[str]) -> str:
    """Join: a; a and b; a, b and c."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def degrees(cosine: float) -> float:
    """Return the angle to a cosine, in degrees."""
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def chance(samples: int) -> float:
    """Return the mean |cos| between random vectors of as many samples, their mean taken off."""
    d = max(1, min(samples, 10**9) - 1)
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
