"""Problems as tests expect them: by kind and code, never by their words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from streammig.errors import Problem


@contextlib.contextmanager
def raises(kind: type[Problem], code: str) -> Iterator[pytest.ExceptionInfo[Problem]]:
    """Like `pytest.raises`, for a problem with this code."""
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code, caught.value
