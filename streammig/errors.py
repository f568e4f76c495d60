"""Errors that stop a command, each with a stable code and an exit code."""

from __future__ import annotations

from typing import Any


def counted(number: int, what: str, more: str = "s") -> str:
    """Format a number of things for a message: 1 batch, 2,000 batches (with `more` "es")."""
    return f"{number:,} {what}" + (more if number != 1 else "")


class Problem(Exception):
    """An error that stops a command, in words for the person who typed it.

    `code` is stable, in kebab case: programs and tests use it, never the words. `what` says what was attempted, on
    what, and what came back. `hint` says what to do or type next. Neither may hold an API key, a token or a value of a
    record. `exit_code` is the process's exit code.
    """

    exit_code = 1

    def __init__(self, code: str, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle the attributes: some subclasses take other arguments than these.
        return _restore, (type(self), vars(self))

    def json(self) -> dict[str, str | int]:
        return {"code": self.code, "what": self.what, "hint": self.hint, "exit_code": self.exit_code}

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


def _restore(kind: type[Problem], attributes: dict[str, Any]) -> Problem:
    made = kind.__new__(kind, attributes["what"])
    vars(made).update(attributes)
    return made


class MachineFault(Problem):
    """The machine failed (disk full, I/O error), or streammig has a defect. The run can be resumed."""

    exit_code = 1


class Unusable(Problem):
    """The command line, the settings, the export or the checkpoint can't be used as asked."""

    exit_code = 2


def defect(error: BaseException) -> MachineFault:
    """Report an unexpected exception by its type and its lines of code. Its message may hold a value of a record."""
    import traceback  # here, because most commands never need it

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    places = traceback.extract_tb(error.__traceback__)[-6:]
    said = "".join(f"\n  {place.filename}:{place.lineno} in {place.name}" for place in places)
    hint = "Please report these lines. The checkpoint is as it was: the same command goes on."
    return MachineFault("defect", f"a defect of streammig: {type(error).__name__}{said}", hint)


EXPORT_BROKEN = "export-broken"
AFTER_A_BREAK = (
    "All records before that byte are sent. A new run of the whole file would send them twice. So export the records"
    " after it as a file of its own, and migrate that with a checkpoint of its own."
)


class BrokenExport(Unusable):
    """The export can't be read from some byte on. All records before it were yielded.

    `path` is the file as the user named it, `offset` the byte in the decompressed stream. `whole`: the document ends
    before that byte, and no record comes after it.
    """

    def __init__(self, path: str, offset: int, why: str, hint: str = "", *, whole: bool = False) -> None:
        super().__init__(EXPORT_BROKEN, f"{path}: the export breaks off at byte {offset}: {why}", hint)
        self.path = path
        self.offset = offset
        self.why = why
        self.whole = whole


class UnknownOutcome(Problem):
    """Batches with an unknown outcome remain."""

    exit_code = 4


SAMPLES_MISSING = "samples-missing"


class SamplesMissing(Problem):
    """Accepted records can't be seen at the target, and a later stage depends on them."""

    exit_code = 3


class TooManyDead(Problem):
    """More records became dead letters than the settings allow. The same command goes on."""

    exit_code = 3


class Altered(Problem):
    """A file that serves as proof was changed, or belongs to something else."""

    exit_code = 3


class TargetStop(Problem):
    """The target refuses credentials or permission, or gives an answer that no record explains."""

    exit_code = 5


class Held(Problem):
    """Another process holds the checkpoint."""

    exit_code = 11
