"""Worlds of given sizes with random contents, so that other systems can be measured beside this one at equal work.

Nothing here is learnt and no number but the sizes means anything.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dsrm_jax.config import Config
from dsrm_jax.purify.encoder import Embeddings, gather_evidence
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.purifier import PurifierBatch
from dsrm_jax.purify.view import Catalogue
from dsrm_jax.runs.pieces import encoder_of, mechanisms_of, purifier_of
from dsrm_jax.runs.prepare import Prepared, Say, seed_keys
from dsrm_jax.simulator.build import Worlds
from dsrm_jax.simulator.history import history_before
from dsrm_jax.simulator.mechanism import with_mechanisms
from dsrm_jax.simulator.response import FactorResponse, TableResponse
from dsrm_jax.simulator.transformer import Features, UserResponseModel, freeze_response
from dsrm_jax.simulator.world import Response, SessionStarts, World
from experiments.fcpo_ml100k.held_ratings import NUM_RECENT, HeldRatings
from experiments.fcpo_ml100k.ranker import RankingData

ROWS = 60  # log rows of each user
STATES = 256  # that the purifiers' normalisation is taken from


def table_world(config: Config, say: Say) -> Prepared:
    """Return 1,411 users and 3,327 items with a table of answers: EasyRL4Rec's KuaiRec."""
    users, items = 1411, 3327
    rng = np.random.default_rng(0)
    response = TableResponse(jnp.asarray(rng.random((users, items)), jnp.float32))
    return _prepared(config, response, users, items, "a random table of 1,411 users and 3,327 items")


def transformer_world(config: Config, say: Say) -> Prepared:
    """Return 1,000 users and 5,637 items who answer by an untrained transformer over 100 events: KuaiSim's."""
    users, items, history = 1000, 5637, config.environment.history_length
    model = UserResponseModel(num_users=users, num_items=items, history_length=history)
    features = Features(user=(), item=())
    index = jnp.zeros((1,), jnp.int32)
    arguments = (index, jnp.zeros((1, history), jnp.int32), jnp.zeros((1, history, 1)), index, features)
    params = jax.jit(model.init)(jax.random.key(0), *arguments)["params"]
    rng = np.random.default_rng(0)
    response = freeze_response(
        model,
        params,
        user=_normal(rng, users, model.dim),
        item=_normal(rng, items, model.dim),
        token=_normal(rng, items + 1, model.dim),
    )
    return _prepared(config, response, users, items, "an untrained transformer, 1,000 users and 5,637 items")


def factor_world(users: int, items: int) -> Callable[[Config, Say], Prepared]:
    """Return what makes a world of any size whose users answer by random factors."""

    def make(config: Config, say: Say) -> Prepared:
        rng, dim = np.random.default_rng(0), config.environment.response_dim
        response = FactorResponse(
            user=_normal(rng, users, dim),
            item=_normal(rng, items, dim),
            user_bias=_normal(rng, users),
            item_bias=_normal(rng, items),
        )
        return _prepared(config, response, users, items, f"random factors of {users:,} users and {items:,} items")

    return make


def held_ratings_world(config: Config, say: Say) -> RankingData:
    """Return 943 users and 1,682 items with random likes, 50 a user in each process: MovieLens-100K's sizes for FCPO."""
    users, items, dim, liked = 943, 1682, 16, 50
    rng = np.random.default_rng(0)
    popular = jnp.asarray(np.arange(items) < items // 5)

    def process(known: np.ndarray) -> HeldRatings:
        held, barred = np.zeros((2, users, items), bool)
        np.put_along_axis(held, rng.integers(0, items, (users, liked)), True, axis=1)
        np.put_along_axis(barred, known, True, axis=1)
        start = jnp.asarray(known[:, -NUM_RECENT:], jnp.int32)
        return HeldRatings(jnp.asarray(held & ~barred), jnp.asarray(barred), start, popular)

    catalogue = Catalogue(_normal(rng, items, dim), _normal(rng, items), _normal(rng, items), popular)
    known = rng.integers(0, items, (users, liked))
    return RankingData(process(known[:, :NUM_RECENT]), process(known), _normal(rng, users, dim), catalogue)


def _normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape, np.float32))


def _prepared(config: Config, response: Response, users: int, items: int, source: str) -> Prepared:
    rng = np.random.default_rng(1)
    dim, rows = config.encoder.dim, users * ROWS
    popularity = rng.standard_normal(items, np.float32)
    world = World(
        response=response,
        starts=SessionStarts(
            user=jnp.asarray(np.repeat(np.arange(users, dtype=np.int32), ROWS)),
            item=jnp.asarray(rng.integers(0, items, rows, np.int32)),
            click=jnp.asarray(rng.integers(0, 2, rows, np.int8).astype(bool)),
            first=jnp.arange(0, rows + 1, ROWS, dtype=jnp.int32),
        ),
        item=jnp.arange(items, dtype=jnp.int32),
        is_popular=jnp.asarray(popularity >= np.quantile(popularity, 0.8)),
        log_popularity=jnp.asarray(popularity),
        exposure=jnp.ones(items),
        clicked=jnp.ones(items),
    )
    world = with_mechanisms(jax.random.key(2), world, mechanisms_of(config))
    vectors = jnp.concatenate([_normal(rng, items, dim), jnp.ones((items, 1))], axis=1)
    perception = _perception(config, Embeddings(vectors, _normal(rng, items)), world.starts)
    everyone = np.arange(users, dtype=np.int32)
    worlds = Worlds(train=world, test=world, train_users=everyone, test_users=everyone, report={})
    return Prepared(worlds, perception, {"source": source, "data_digest": "made up"})


def _perception(config: Config, embeddings: Embeddings, starts: SessionStarts) -> Perception:
    """Return an untrained encoder and one untrained purifier per seed."""
    encoder, purifier = encoder_of(config), purifier_of(config)

    @jax.jit
    def make(embeddings: Embeddings, starts: SessionStarts, keys: jax.Array) -> Perception:
        rows = jnp.arange(STATES) % starts.user.shape[0]
        length = config.environment.history_length
        history = jax.vmap(lambda row: history_before(starts, row, length=length))(rows)
        state = jax.random.normal(jax.random.key(1), (STATES, embeddings.vectors.shape[1]))
        batch = PurifierBatch(state, gather_evidence(embeddings, history), target=state)
        params = jax.vmap(lambda key: purifier.init(key, batch))(keys)
        return Perception(encoder.init(jax.random.key(0), embeddings), params)

    return make(embeddings, starts, seed_keys(config, 1))
