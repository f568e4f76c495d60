"""Exports as files: opening them, finding the records in them, cutting them into slices with exact positions."""

from streammig.sources.files import FileSource, open_source
from streammig.sources.inputs import Input, parse_input
from streammig.sources.opening import Meter

__all__ = ["FileSource", "Input", "Meter", "open_source", "parse_input"]
