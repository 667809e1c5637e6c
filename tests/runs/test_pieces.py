from dataclasses import replace

import jax
import numpy as np
import pytest

from dsrm_jax.config import Config
from dsrm_jax.data.sources import load_log
from dsrm_jax.errors import InputError
from dsrm_jax.runs.pieces import check_names, worlds_of


def test_the_training_simulator_can_have_a_truth_of_its_own():
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(50), 12), rng.permuted(np.tile(np.arange(12), (50, 1)), axis=1).ravel()
    log = load_log({"user_id": user, "item_id": item, "click": rng.random(600) < 0.4})
    config = Config()
    own = replace(config, environment=replace(config.environment, train_response=f"{__name__}:half", response_epochs=1))
    worlds = worlds_of(jax.random.key(0), log, own)
    assert [worlds.report[name]["response"] for name in ("train", "test")] == [f"{__name__}:half", "fitted"]
    np.testing.assert_array_equal(worlds.train.response.probability, 0.5)


def half(key, log, rows, users):
    from dsrm_jax.simulator.response import TableResponse

    return TableResponse(np.full((len(users), len(log.catalogue)), 0.5, np.float32))


def test_a_training_response_that_is_not_there_is_named_before_any_work():
    config = Config()
    with pytest.raises(InputError, match="fited"):
        check_names(replace(config, environment=replace(config.environment, train_response="fited")))
