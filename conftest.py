"""What doctests need, too: those of the library lie outside of tests/."""

import pytest
from compiling import quickly_compiled


@pytest.fixture(autouse=True)
def quick_doctests(request):
    """Doctests compile what they jit quickly: they are about what they print."""
    if isinstance(request.node, pytest.DoctestItem):
        with quickly_compiled():
            yield
    else:
        yield
