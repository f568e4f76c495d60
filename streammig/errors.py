"""The three kinds of failure: a bad record is a value, a bad call is transient, a bad world stops the run."""

from __future__ import annotations

from typing import Any


def counted(number: int, what: str, more: str = "s") -> str:
    """A number of things as messages say it: 1 batch, 2,000 batches (`more` is "es")."""
    return f"{number:,} {what}" + (more if number != 1 else "")


class Problem(Exception):
    """What stops a command, in words for the person who typed it.

    `code` is stable, in kebab case: programs and tests go by it, never by the words. `what` says what was attempted, on
    what, and what came back; `hint` says what to do or type next. Neither may hold an API key, a token or a value of a
    record. `exit_code` is the process's exit code.
    """

    exit_code = 1

    def __init__(self, code: str, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # Some kinds are made of other things than they hold: another process gets what they hold.
        return _again, (type(self), vars(self))

    def json(self) -> dict[str, str | int]:
        return {"code": self.code, "what": self.what, "hint": self.hint, "exit_code": self.exit_code}

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


def _again(kind: type[Problem], held: dict[str, Any]) -> Problem:
    made = kind.__new__(kind, held["what"])
    vars(made).update(held)
    return made


class MachineFault(Problem):
    """The machine's fault (disk full, I/O error) or a defect of ours; the run can be resumed."""

    exit_code = 1


class Unusable(Problem):
    """Usage, settings, export or checkpoint can't be used as asked."""

    exit_code = 2


def defect(error: BaseException) -> MachineFault:
    """What to say of an exception that nobody expected: its kind and its places, for its message may hold a value of a
    record."""
    import traceback  # which most commands never need

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    places = traceback.extract_tb(error.__traceback__)[-6:]
    said = "".join(f"\n  {place.filename}:{place.lineno} in {place.name}" for place in places)
    hint = "Please report these lines. The checkpoint is as it was: the same command goes on."
    return MachineFault("defect", f"a defect of streammig: {type(error).__name__}{said}", hint)


EXPORT_BROKEN = "export-broken"
AFTER_A_BREAK = (
    "What stands before it is delivered, and a whole new run would send that twice. So export what stands behind it as"
    " a file of its own, and migrate that with a checkpoint of its own."
)


class BrokenExport(Unusable):
    """An export that can't be read on from a byte: everything before it was yielded.

    `path` is the file as the user named it, `offset` the byte in the decompressed stream. `whole`: the document is
    complete before it, and what stands there holds no record.
    """

    def __init__(self, path: str, offset: int, why: str, hint: str = "", *, whole: bool = False) -> None:
        super().__init__(EXPORT_BROKEN, f"{path}: the export breaks off at byte {offset}: {why}", hint)
        self.path = path
        self.offset = offset
        self.why = why
        self.whole = whole


class UnknownOutcome(Problem):
    """Batches with an unknown outcome are left."""

    exit_code = 4


SAMPLES_MISSING = "samples-missing"


class SamplesMissing(Problem):
    """What the target accepted can't be seen there, and a later stage builds on it."""

    exit_code = 3


class TooManyDead(Problem):
    """More records became dead letters than the settings allow: somebody has to look, and the run can go on."""

    exit_code = 3


class Altered(Problem):
    """A file that proves something is not as it was written, or does not fit what it proves."""

    exit_code = 3


class TargetStop(Problem):
    """The target's word ends the run: credentials, permission, an answer that no record explains."""

    exit_code = 5


class Held(Problem):
    """Another process holds the checkpoint."""

    exit_code = 11
