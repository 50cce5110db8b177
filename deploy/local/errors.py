"""What can go wrong with the local stack, each with one line for the person in front of it.

LocalStackError
 +- EngineError     an engine can't be had, started or reached
 +- PortInUse       somebody else listens where we should
 +- HomeUnusable    the state folder can't be written, or its disk is full
 +- AlreadyRunning  another supervisor owns this home
 +- SettingsInvalid a setting can't be read
"""

from __future__ import annotations


class LocalStackError(Exception):
    """Base of all; its text is one line and says what to do. `exit_code` is what a command ends with."""

    exit_code = 1


class EngineError(LocalStackError):
    """An engine could not be had, started or reached."""

    exit_code = 3


class PortInUse(LocalStackError):
    """A port that an engine or process should have is taken."""

    exit_code = 4


class HomeUnusable(LocalStackError):
    """The state folder can't be made or written, or its disk is full."""

    exit_code = 5


class AlreadyRunning(LocalStackError):
    """Another supervisor runs with this home."""

    exit_code = 6


class SettingsInvalid(LocalStackError):
    """A setting in the environment can't be read."""

    exit_code = 2
