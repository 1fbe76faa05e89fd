"""Every rule of contract.py holds for every method of methods.py."""

import pytest

from tests.contract import RULES
from tests.methods import METHODS


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_contract(rule, method):
    rule(method)
