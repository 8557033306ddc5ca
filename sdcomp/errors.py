"""One error class per phase. The message names the file, tensor or node, what was expected, what was found,
what to do.

The command line prints `str(error)` as one line and exits with `exit_code`; anything that is not a
`SdcompError` is a bug.
"""


class SdcompError(Exception):
    """Base of every error that a user can cause and can mend."""

    exit_code = 1


class UsageError(SdcompError):
    """An option or an argument that cannot be honoured."""

    exit_code = 2


class LoadError(SdcompError):
    """A checkpoint or adapter file that cannot be read: truncated, malformed, or out of bounds."""


class FamilyError(SdcompError):
    """A checkpoint whose tensors do not form a network that the compiler knows."""


class AdapterError(SdcompError):
    """An adapter that does not fit the model: unmatched, incomplete, or of the wrong shape."""


class VerifyError(SdcompError):
    """A graph that breaks a rule of the IR."""


class ParseError(SdcompError):
    """IR text that cannot be parsed."""


class PassError(SdcompError):
    """A pass that cannot be applied to the graph it was given."""


class CodegenError(SdcompError):
    """A kernel that cannot be emitted for the target."""


class LinkError(SdcompError):
    """The toolchain failed, or the artifact cannot be written."""


class ArtifactError(SdcompError):
    """An artifact that cannot be opened: damaged, of another version, or for another CPU."""


class ExecutionError(SdcompError):
    """A program that was called with the wrong inputs, or failed while it ran."""


class Cancelled(SdcompError):
    """The run was cancelled before it finished."""

    exit_code = 130
