"""The files that a check writes: all problems, line by line, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from streammig.disk import new_file
from streammig.errors import Problem, counted
from streammig.report.audit import is_report

if TYPE_CHECKING:
    from streammig.check.stage import Line


class _Trial(Exception):
    """Ends a file that was opened only to see whether it can be written."""


class Outputs:
    """Takes the problems of a check within a `with` block. The list of them is whole behind it, or not there.

    A file that can't be written ends nothing: `failed` has why. A report that can't be is found before the check, too.
    """

    def __init__(self, out: Path | None, report: Path | None) -> None:
        self._out, self._report = out, report
        self._stack = ExitStack()
        self._lines: BinaryIO | None = None
        self._count = 0
        self._broken: OSError | None = None
        self._reported = False
        self.failed: list[Problem] = []

    def __enter__(self) -> Outputs:
        with self._failures():
            self._lines = self._stack.enter_context(new_file(self._out)) if self._out is not None else None
        report, self._report = self._report, None
        with self._failures():
            if report is not None:
                with suppress(_Trial), new_file(report, may_replace=is_report):
                    raise _Trial
            self._report = report
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        broken = error or self._broken
        with self._failures():
            self._stack.__exit__(type(broken) if broken else None, broken, tb)

    def write(self, line: Line) -> None:
        """Add a problem of a record to the list."""
        import msgspec

        if self._lines is None or self._broken is not None:
            return
        try:
            self._lines.write(msgspec.json.encode(line) + b"\n")
            self._count += 1
        except OSError as error:
            self._broken = error

    def report(self, found: Mapping[str, Any]) -> None:
        """Write the report on a check's document, if one is asked for and may be written."""
        from streammig.check.report import rendered

        if self._report is not None:
            with self._failures():
                with new_file(self._report, may_replace=is_report) as file:
                    file.write(rendered(found))
                self._reported = True

    @property
    def lists(self) -> bool:
        """Whether a list of all problems is asked for."""
        return self._out is not None

    def told(self) -> Iterator[str]:
        """The files that were written, each in a line for people."""
        if self._lines is not None and self._broken is None:
            yield f"problems: {self._out}, {counted(self._count, 'line')}"
        if self._reported:
            yield f"report: {self._report}"

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Problem as problem:
            self.failed.append(problem)
