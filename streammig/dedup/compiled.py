"""The compiled part of the dedup index: `rows`; None if it was not compiled, and Python does the same."""

try:
    from streammig.dedup import _rows
except ImportError:
    _rows = None  # type: ignore[assignment]

rows = _rows
