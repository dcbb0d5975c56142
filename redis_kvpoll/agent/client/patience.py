"""How long a process waits for its agent. No I/O.

Invariant: only questions that stay without an answer count, never time alone: a process that stood still itself does
not blame its agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a channel waits. A process that stood still wakes to one tick."""

    tick: float = 0.3
    """Seconds between two questions to the agent."""
    early: float = 0.2
    """If a message has just woken the channel's thread, it asks as soon as so many seconds have passed since the last
    question; less than the time between two reports of a session."""
    unanswered: int = 3
    """After so many ticks without an answer another agent is started."""
    busy: int = 100
    """The same while its process runs: it may only be slow, and another one would be no faster."""
    unwelcome: int = 34
    """The same before its welcome: a new agent is an interpreter that has to start, on a busy machine too."""
    polled: float = 0.05
    """Seconds between two looks of the channel's thread while callers poll."""
    longest_pause: float = 5.0
    """The longest pause in seconds between two attempts to connect, each of which may start an agent."""
    service_pause: float = 0.25
    """The same where somebody else starts the agent: it must be found within the lease, and a look costs little."""


DEFAULT_TIMING = Timing()


class Signs(Protocol):
    """What an agent shows of itself, beside what it sends."""

    @property
    def is_welcome(self) -> bool: ...
    @property
    def beats(self) -> int: ...
    @property
    def answers(self) -> int: ...


class AgentPatience:
    """Counts the questions to an agent that has not answered."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._unanswered = 0
        self._beats = self._answers = 0

    def begin(self) -> None:
        """Begin anew, because something has come from the agent, or there is another one."""
        self._unanswered = 0

    def is_over(self, agent: Signs) -> bool:
        """Return whether the agent has left too many questions unanswered; otherwise it is asked once more."""
        if agent.answers != self._answers:
            self._answers, self._unanswered = agent.answers, 0
        beats, self._beats = self._beats, agent.beats
        limit = self._timing.unanswered if self._beats == beats else self._timing.busy
        if self._unanswered >= (limit if agent.is_welcome else self._timing.unwelcome):
            return True
        self._unanswered += 1
        return False
