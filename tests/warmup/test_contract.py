"""Every rule of contract.py for AutoWU with its test compiled: slow."""

import pytest

from tests.contract import RULES
from tests.methods import AUTOWU_WITH_TESTS


@pytest.mark.slow
@pytest.mark.parametrize("method", AUTOWU_WITH_TESTS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_contract(rule, method):
    rule(method)
