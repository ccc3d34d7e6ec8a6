import pytest

from visionsparse import errors


@pytest.mark.parametrize(
    "kind", [errors.ConfigError, errors.CheckpointError, errors.DataError, errors.InputError, errors.UnknownNameError]
)
def test_every_kind_is_a_user_error_and_a_value_error(kind):
    assert issubclass(kind, errors.UserError)
    assert issubclass(kind, ValueError)


def test_near_misses_are_named():
    assert errors.did_you_mean("biformer_tny", ["biformer_tiny", "lsnet_t"]) == " Did you mean 'biformer_tiny'?"


def test_what_is_further_off_than_the_nearest_is_not_named():
    known = ["biformer/biformer_nano_digits", "biformer/biformer_base_in1k"]
    assert errors.did_you_mean("biformer/biformer_nano_digit", known) == f" Did you mean {known[0]!r}?"


def test_known_names_are_listed_where_nothing_is_near():
    assert errors.did_you_mean("zzz", ["b", "a"]) == " Known: a, b."


def test_nothing_is_said_where_nothing_is_known():
    assert errors.did_you_mean("a", []) == ""
