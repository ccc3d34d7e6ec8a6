from __future__ import annotations

import pytest

from visionsparse.config import list_configs, load_config
from visionsparse.engine.runner import _checked


@pytest.mark.parametrize("name", list_configs())
def test_an_installed_config_names_only_what_exists_and_says_how_to_run_it(name):
    config = load_config(name)

    _checked(config)

    assert f"visionsparse {'train' if 'train_cfg' in config else 'test'} {name}" in config.text
