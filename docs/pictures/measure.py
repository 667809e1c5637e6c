"""The numbers of the site's pictures, by the library itself: `python docs/pictures/measure.py` writes pictures.json beside it."""

import json
import os
from pathlib import Path

from dsrm_jax.parallel.xla import set_flags

set_flags(os.environ)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import dsrm_jax as dj  # noqa: E402
from dsrm_jax.evaluation.oracles import chances  # noqa: E402
from dsrm_jax.purify import diffusion_model  # noqa: E402
from dsrm_jax.purify.diffusion import reverse  # noqa: E402
from dsrm_jax.purify.encoder import gather_evidence  # noqa: E402

USERS, ITEMS, LEVELS = 12, 25, 20


def fit() -> tuple:
    """Return a small synthetic kuairec world with a perception of its log, and a DSRM-HRL trained for a moment."""
    log = dj.load_log("kuairec", history_scale=0.3)
    worlds = dj.make_worlds(jax.random.key(0), log)
    environment = dj.make("paper")
    encoder, purifier = dj.make_encoder(), dj.make_purifier()
    rows = {"starts": worlds.train.starts, "users": worlds.train_users}
    perception = dj.fit_perception(jax.random.key(1), log, encoder, purifier, **rows)
    agent = dj.make_dsrm_hrl()
    train = dj.make_train(environment, agent, encoder, purifier, num_users=64, rollout_length=16, num_updates=4)
    policy, _ = jax.jit(train)(jax.random.key(2), worlds.train, perception)
    # `guided` moves by Eq. (3) level by level; the default knows its mean in closed form
    guided = dj.make_purifier(kind="guided", diffusion_steps=LEVELS)
    guidance = guided, dj.fit_perception(jax.random.key(1), log, encoder, guided, **rows)
    return guidance, worlds.test, environment, encoder, purifier, perception, agent, policy


def session(key: jax.Array, world, environment, encoder, purifier, perception, agent, policy) -> dict:
    """Play nine held-out users from arrival to leaving, with the policy's mode; return the one with the middle share."""
    perceive = dj.make_perceive(encoder, purifier)
    catalogue = dj.make_catalogue(perception.encoder.embeddings, world)

    @jax.jit
    def step(key, observation, state):
        batched = jax.tree.map(lambda x: x[None], observation)
        slate, _ = agent.act(policy, key, perceive(perception, None, batched), catalogue, greedy=True)
        observation, state, _, left, _, info = environment.step(key, state, slate[0], world)
        return observation, state, left, slate[0], info["clicks"]

    def play(key: jax.Array) -> dict:
        arrive, *keys = jax.random.split(key, environment.max_steps + 1)
        observation, state = environment.reset(arrive, world)
        found = {"popular": [], "clicks": [], "temper": [int(state.temper) / environment.slate_size]}
        for key in keys:
            observation, state, left, slate, clicked = step(key, observation, state)
            found["popular"].append(world.is_popular[slate].tolist())
            found["clicks"].append(clicked.tolist())
            found["temper"].append(int(state.temper) / environment.slate_size)
            if left:
                break
        return found

    played = [play(one) for one in jax.random.split(key, 9)]
    return sorted(played, key=lambda found: np.mean(found["clicks"]))[4]


def states(key: jax.Array, guidance, world, environment, encoder, purifier, perception) -> dict:
    """Return states of held-out users who arrive, `guided`'s level by level, and the true chances of what each ranks first."""
    arrivals = jax.random.split(key, 200)
    observation, env = jax.vmap(environment.reset, in_axes=(0, None))(arrivals, world)
    embeddings = perception.encoder.embeddings
    evidence = gather_evidence(embeddings, observation.history, unlogged=observation.unlogged)
    observed = encoder.encode(perception.encoder, evidence.summary)
    true = chances(environment, env, world)
    vectors, bias = embeddings.vectors[world.item], embeddings.bias[world.item]
    purified = purifier.purify(perception.purifier, None, observed, evidence)
    guided, fitted = guidance
    path = level_by_level(lambda: guided.purify(fitted.purifier, None, observed, evidence))
    # the state whose predicted clicks are nearest to the true ones, by least squares of logits
    logits = jnp.log(jnp.clip(true, 1e-4, 1 - 1e-4) / (1 - jnp.clip(true, 1e-4, 1 - 1e-4)))
    oracle = jnp.linalg.lstsq(vectors, (logits - bias).T)[0].T
    best = {
        name: jnp.take_along_axis(true, jnp.argsort(-(state @ vectors.T + bias))[:, :ITEMS], axis=1).mean(axis=1)
        for name, state in {"observed": observed, "purified": purified, "oracle": oracle}.items()
    }
    # what sets users apart most: two directions of the oracle states
    centre = oracle.mean(axis=0)
    plane = np.linalg.svd(oracle - centre, full_matrices=False)[2][:2].T
    flat = {"observed": observed, "purified": purified, "oracle": oracle}
    return {
        "plane": {name: ((state - centre) @ plane)[:USERS].tolist() for name, state in flat.items()},
        "best": {name: [float(x.mean()), *x[:USERS].tolist()] for name, x in best.items()},
        "catalogue": float(true.mean()),
        "path": np.asarray(path)[:, :USERS, :2].tolist(),
    }


def level_by_level(purify) -> list:
    """Run a purifier whose reverse process stops at every level; return the noised states on the way."""
    path: list = []

    def stopping(predict, schedule, noised, features, *, start, noise, memory, sampler):
        path.append(noised)
        for level in range(start, 0, -1):
            one = jax.tree.map(lambda x, k=level: x[k - 1 : k], (schedule, features))
            moved = {}

            def keep(*args, moved=moved):
                eps, moved["memory"] = predict(*args)
                return eps, args[2]

            with jax.disable_jit():
                noised = reverse(keep, one[0], noised, one[1], start=1, memory=memory, sampler=sampler)
            memory = moved["memory"]
            path.append(noised)
        return noised

    whole, diffusion_model.reverse = diffusion_model.reverse, stopping
    try:
        purify()
    finally:
        diffusion_model.reverse = whole
    return path


def main() -> None:
    guidance, *pieces = fit()
    found = {"session": session(jax.random.key(7), *pieces), "states": states(jax.random.key(4), guidance, *pieces[:5])}
    rounded = json.loads(json.dumps(found), parse_float=lambda x: round(float(x), 4))
    Path(__file__).with_name("pictures.json").write_text(json.dumps(rounded) + "\n")


if __name__ == "__main__":
    main()
