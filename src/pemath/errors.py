"""The exceptions of pemath: one tree, each leaf with a stable code.

PemathError
├── Bug                     exit 1   pemath itself failed
├── UsageError              exit 2   the request itself is wrong
│   ├── ExpressionError              the expression does not parse (with a caret)
│   ├── RequestError                 an option has a bad value or contradicts another
│   └── MissingExtra                 an optional part is not installed
├── InputError              exit 3   a file is refused
│   ├── FileFormatError              not a well-formed safetensors file (TruncatedFile,
│   │                                BadHeader, DuplicateTensor, BadOffsets, BadShape,
│   │                                BadTensorName, UnknownDtype)
│   ├── NonFiniteValue               a tensor holds NaN or infinity
│   ├── ConfigError                  adapter_config.json is missing or malformed
│   ├── PickleRefused                the weights are a pickle
│   ├── UnsupportedKind              a PEM type that pemath does not read
│   ├── UnsupportedFeature           a field that changes the meaning of the weights
│   ├── LayoutError                  tensors do not fit the kind's layout
│   └── VerificationFailed           a folder does not match its lock file
├── OperandError            exit 4   operands do not go together
│   ├── KindMismatch, ShapeMismatch, RankMismatch, BaseMismatch, HeadChoiceNeeded
│   ├── StatisticsNeeded             a data-driven method lacks what it was to be driven by
│   ├── OutOfRange                   values that the stored dtype cannot hold
│   └── ErrorTooLarge                no result within --max-error
└── StorageError            exit 5   reading or writing failed (ReferenceNotFound, OutputExists)

Every message says what is wrong, where, what was found and expected, and what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


class PemathError(Exception):
    """Root of all errors that pemath raises on purpose.

    Attributes: `code` (stable, kebab-case), `exit_code` (of the command line), `what`, `where`,
    `found`, `expected` and `hint` (strings or None).
    """

    code: ClassVar[str] = "pemath-error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.hint = hint
        super().__init__(self.text())

    def text(self) -> str:
        """The message, one sentence per line."""
        lines = [_sentence(self.what)]
        if self.where:
            lines.append(f"Where: {self.where}.")
        if self.found is not None or self.expected is not None:
            found = f"found {self.found}" if self.found is not None else ""
            expected = f"expected {self.expected}" if self.expected is not None else ""
            sentence = ", ".join(part for part in (found, expected) if part)
            lines.append(sentence[0].upper() + sentence[1:] + ".")
        if self.hint:
            lines.append(_sentence(f"What to do: {self.hint}"))
        return "\n".join(lines)

    def within(self, place: str) -> Self:
        """The same error, with `place` in front of where it happened."""
        self.where = f"{place}: {self.where}" if self.where else place
        self.args = (self.text(),)
        return self

    def as_dict(self) -> dict[str, Any]:
        """The error as the object that `--json` prints."""
        return {
            "error": self.code,
            "what": self.what,
            "where": self.where,
            "found": self.found,
            "expected": self.expected,
            "hint": self.hint,
        }


class Bug(PemathError):
    """Something that pemath did not foresee; only the command line raises it."""

    code = "bug"

    def __init__(self, what: str) -> None:
        super().__init__(what, hint="please report it with the lines above and the command")


class UsageError(PemathError):
    """The request is wrong before any file is looked at."""

    code = "usage"
    exit_code = 2


class ExpressionError(UsageError):
    """The expression does not parse; the message shows it with a caret under the place."""

    code = "expression"

    def __init__(self, what: str, *, text: str, position: int, hint: str | None = None) -> None:
        self.expression_text = text
        self.position = position
        super().__init__(what, hint=hint)

    def text(self) -> str:
        """The message, with the expression and a caret."""
        start = max(0, self.position - 60)
        line = "".join(
            c if c.isprintable() else " " for c in self.expression_text[start : start + 120]
        )
        caret = " " * (self.position - start) + "^"
        lines = [self.what.rstrip(".") + ":", f"    {line}", f"    {caret}"]
        if self.hint:
            lines.append(_sentence(f"What to do: {self.hint}"))
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The error for `--json`, with the expression and the position."""
        return {
            **super().as_dict(),
            "expression": self.expression_text,
            "position": self.position,
        }


class RequestError(UsageError):
    """An option has a bad value, or contradicts another."""

    code = "request"


class MissingExtra(UsageError):
    """An optional dependency is not installed."""

    code = "missing-extra"


class InputError(PemathError):
    """A file that was given is refused."""

    code = "input"
    exit_code = 3


class FileFormatError(InputError):
    """The file is not a well-formed safetensors file."""

    code = "file-format"


class TruncatedFile(FileFormatError):
    """The file ends before its header or its data do."""

    code = "truncated-file"


class BadHeader(FileFormatError):
    """The header is not the JSON object that the format asks for."""

    code = "bad-header"


class DuplicateTensor(FileFormatError):
    """Two tensors have one name."""

    code = "duplicate-tensor"


class BadOffsets(FileFormatError):
    """Offsets overlap, leave gaps or bytes behind the last tensor, or disagree with the shape."""

    code = "bad-offsets"


class BadShape(FileFormatError):
    """A shape is absurd: negative, too many dimensions, too many elements."""

    code = "bad-shape"


class BadTensorName(FileFormatError):
    """A tensor's name is empty, too long or holds control characters."""

    code = "bad-tensor-name"


class UnknownDtype(FileFormatError):
    """A dtype that the format does not define, or that pemath does not compute with."""

    code = "unknown-dtype"


class NonFiniteValue(InputError):
    """A tensor holds NaN or infinity."""

    code = "non-finite-value"


class ConfigError(InputError):
    """adapter_config.json (or another JSON or YAML file) is missing or malformed."""

    code = "config"


class PickleRefused(InputError):
    """The weights are stored as a pickle, which can run code when it is read."""

    code = "pickle-refused"


class UnsupportedKind(InputError):
    """A PEM type that pemath does not read."""

    code = "unsupported-kind"


class UnsupportedFeature(InputError):
    """A config field changes the meaning of the weights in a way that pemath does not support."""

    code = "unsupported-feature"


class LayoutError(InputError):
    """The tensors do not form the sites that the kind describes."""

    code = "layout"


class VerificationFailed(InputError):
    """A composed folder does not match its lock file."""

    code = "verification-failed"


class OperandError(PemathError):
    """Operands that cannot be combined."""

    code = "operands"
    exit_code = 4


class KindMismatch(OperandError):
    """Operands, or an operand and a method, are of kinds that do not go together."""

    code = "kind-mismatch"


class ShapeMismatch(OperandError):
    """One site has different shapes in two operands."""

    code = "shape-mismatch"


class RankMismatch(OperandError):
    """A factor-wise method needs equal ranks."""

    code = "rank-mismatch"


class BaseMismatch(OperandError):
    """Operands were trained on different base models."""

    code = "base-mismatch"


class OutOfRange(OperandError):
    """The result has values that the stored dtype cannot hold."""

    code = "out-of-range"


class HeadChoiceNeeded(OperandError):
    """It is not clear what to do with the heads (modules_to_save)."""

    code = "head-choice-needed"


class StatisticsNeeded(OperandError):
    """A data-driven method lacks statistics of an operand, or they belong to other weights."""

    code = "statistics-needed"


class ErrorTooLarge(OperandError):
    """The stored result would be further from the exact one than was allowed."""

    code = "error-too-large"


class StorageError(PemathError):
    """Reading or writing failed."""

    code = "storage"
    exit_code = 5


class ReferenceNotFound(StorageError):
    """A reference names no folder, example or repository that can be reached."""

    code = "reference-not-found"


class OutputExists(StorageError):
    """The output folder exists already."""

    code = "output-exists"
