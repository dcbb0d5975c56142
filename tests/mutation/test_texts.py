"""Every mutation's text is in the code, here and in ``tests/model``: in seconds, where the mutations take minutes."""

from __future__ import annotations

import pytest

from redis_kvpoll.protocol import scripts
from tests.model import recovery_settings, test_interleavings, test_lease_interleavings
from tests.model.mutated import mutated
from tests.mutation import mutate
from tests.mutation.test_mutations import ALL

OF_MODELS = [
    *[(script, good, bad) for _, _, script, good, bad, _ in test_interleavings.MUTATIONS],
    *[(script, good, bad) for _, script, good, bad, _ in test_lease_interleavings.MUTATIONS],
    *[(script, good, bad) for _, script, good, bad, _ in recovery_settings.MUTATIONS],
]


@pytest.mark.parametrize(("where", "good", "bad"), [pytest.param(*change[:3], id=name) for name, *change in ALL])
def test_text_of_a_mutation_is_in_the_code(where, good, bad):
    with mutate.mutation(where, good, bad):
        pass


@pytest.mark.parametrize(("script", "good", "bad"), OF_MODELS)
def test_text_of_a_models_mutation_is_in_its_script(script, good, bad):
    source = scripts.load(script).source
    assert mutated(source, good, bad) != source
