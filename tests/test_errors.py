"""Checks of settings, and of names from files."""

from __future__ import annotations

import math

import pytest

from lass import LassError
from lass.errors import check_number, path_component


@pytest.mark.parametrize("value", [1, 2.5, 10])
def test_numbers_within_their_limits_pass(value):
    check_number("weight", value, at_least=1, at_most=10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0, 10.5, "3", None, True, [3]])
def test_other_values_are_refused_with_limits_and_value(value):
    with pytest.raises(LassError, match=r"^weight must be a number, above 0, at most 10, not "):
        check_number("weight", value, above=0, at_most=10)


def test_integers_too_long_to_be_printed_are_refused():
    with pytest.raises(LassError, match="not one of more than 300 digits"):
        check_number("count", 10**5000, at_least=0, whole=True)


@pytest.mark.parametrize("value", [1.0, True, "1"])
def test_whole_numbers_are_integers(value):
    with pytest.raises(LassError, match="must be an integer"):
        check_number("count", value, whole=True)


@pytest.mark.parametrize("name", ["drums", "Bass guitar", "a.b", "$x$", "übung", "..a"[2:], "x" * 100])
def test_ordinary_names_may_become_files(name):
    assert path_component(name, "separator.json") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../evil", "a/b", "a\\b", "C:", ".hidden", "a\x00b", "a\n", "x" * 101, " a", "a.", 3, None]
)
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(LassError, match=r"^separator\.json holds the name "):
        path_component(name, "separator.json")
