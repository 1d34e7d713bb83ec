"""The errors that a user can mend: each names what was received, what was expected and what to do."""


class WspaceError(Exception):
    """Base of every error that wspace raises about its input or its surroundings."""


class SpecError(WspaceError, ValueError):
    """A spec asks for something that cannot be trained: unknown key, wrong type, value out of range."""


class DataError(WspaceError, ValueError):
    """A dataset cannot be read or cannot be learned from: missing, truncated, malformed, not finite."""


class SymmetryError(WspaceError, ValueError):
    """A declared symmetry does not fit the params, or does not leave the model's function unchanged."""


class StoreError(WspaceError, RuntimeError):
    """A run folder cannot be written, resumed or read: foreign, changed, damaged, disk full."""


class PlatformError(WspaceError, RuntimeError):
    """The installed numerical libraries give wrong numbers here, or the asked device does not exist."""
