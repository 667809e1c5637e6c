"""CONTRIBUTING's example is true: its pieces train together, by argument."""

import re
from pathlib import Path

import jax
import numpy as np

import dsrm_jax as dj

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def test_the_pieces_of_the_page_learn_and_are_measured():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    mine: dict = {}
    exec(compile(block, PAGE.name, "exec"), mine)
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(30), 12), rng.integers(0, 15, 360)
    log = dj.load_log({"user_id": user, "item_id": item, "click": rng.random(360) < 0.5, "time": np.arange(360)})
    worlds = dj.make_worlds(
        jax.random.key(0), log, slate_size=3, response=mine["response"], mechanisms=[mine["mechanism"]()]
    )
    rule = mine["leave"](slate_size=3, max_len=6)
    pieces = {"reward": mine["reward"], "leave": rule, "mechanisms": [mine["mechanism"]()]}
    environment = dj.make("paper", slate_size=3, max_len=6, history_length=8, **pieces)
    encoder, purifier = dj.make_encoder(dim=2), mine["purifier"](iterations=3, learning_rate=0.1)
    options = {"history_length": 8, "arrival_length": 4, "embedding_epochs": 1, "iterations": 3}
    perception = dj.fit_perception(jax.random.key(1), log, encoder, purifier, **options)
    assert float(perception.purifier["scale"]) != 1  # it learnt
    agent = mine["agent"](slate_size=3, learning_rate=0.5)
    train = dj.make_train(environment, agent, encoder, purifier, num_users=4, rollout_length=4, num_updates=2)
    score, metrics = jax.jit(train)(jax.random.key(2), worlds.train, perception)
    assert np.all(score >= 0)
    assert np.any(np.asarray(score) > 0)  # counted what was clicked, and nothing else
    assert np.all(np.asarray(metrics["reward"]) <= 2)
    observation, _ = environment.reset(jax.random.key(3), worlds.test)
    assert observation.context[-1] == 0  # nobody is sated on arrival
