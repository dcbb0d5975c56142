"""How many questions an agent may leave unanswered."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from redis_kvpoll.agent.client.patience import AgentPatience, Timing

TIMING = Timing(unanswered=3, busy=7, unwelcome=5)


def questions(agent, each=lambda agent: None, patience=None, limit=50):
    """Return how many questions an agent gets before it is given up; None if it never is."""
    patience = patience or AgentPatience(TIMING)
    for number in range(limit):
        if patience.is_over(agent):
            return number
        each(agent)
    return None


def beat(agent):
    agent.beats += 1


def answer(agent):
    agent.answers += 1


@pytest.fixture
def agent():
    return SimpleNamespace(is_welcome=True, beats=0, answers=0)


def test_agent_that_shows_nothing_is_given_up_soon(agent):
    assert questions(agent) == TIMING.unanswered


def test_agent_whose_process_runs_may_take_longer(agent):
    assert questions(agent, beat) == TIMING.busy


def test_new_agent_has_time_to_start(agent):
    agent.is_welcome = False
    assert questions(agent) == TIMING.unwelcome


def test_agent_that_counts_its_answers_is_never_given_up(agent):
    assert questions(agent, answer) is None


def test_what_comes_from_the_agent_is_an_answer(agent):
    patience = AgentPatience(TIMING)
    assert questions(agent, lambda _: patience.begin(), patience) is None


def test_next_agent_begins_anew(agent):
    """Its numbers are its own; that they are others proves nothing more than one answer."""
    patience = AgentPatience(TIMING)
    assert questions(agent, patience=patience) == TIMING.unanswered
    patience.begin()
    agent.answers, agent.beats = 17, 17
    assert questions(agent, patience=patience) in (TIMING.unanswered, TIMING.unanswered + 1)
