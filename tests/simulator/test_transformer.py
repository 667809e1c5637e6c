"""The user response model against a float64 NumPy forward pass written from KuaiSim's description (arXiv 2309.12645)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrm_jax.errors import InputError
from dsrm_jax.simulator.calibration import auc
from dsrm_jax.simulator.environment import make_environment
from dsrm_jax.simulator.fit_transformer import fit_transformer, row_click_logit, row_histories
from dsrm_jax.simulator.transformer import UserResponseModel, freeze_response, one_hot_features
from dsrm_jax.simulator.transformer_state import frozen_user_state, token_table
from dsrm_jax.simulator.world import History, SessionStarts, World

NUM_USERS, NUM_ITEMS, HISTORY, BATCH = 5, 9, 7, 3
CATALOGUE = np.array([1, 2, 5, 8])


def layer_norm(p, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def encode(p, index, features):
    """Sum over id and features of shared(LN(latent)), one entity at a time."""
    result = []
    for n in index:
        latents = [p["id"]["embedding"][n]]
        latents += [dense(p[f"feature_{k}"], x[n]) for k, x in enumerate(features)]
        result.append(sum(dense(p["shared"], layer_norm(p[f"norm_{k}"], latent)) for k, latent in enumerate(latents)))
    return np.array(result)


def attend(p, x):
    """Causal multi-head attention over all positions of one sequence, looped over heads and positions."""
    q, k, v = (np.einsum("hd,dnf->nhf", x, p[n]["kernel"]) + p[n]["bias"][:, None] for n in ("query", "key", "value"))
    out = np.zeros_like(q)
    for head in range(q.shape[0]):
        for t in range(len(x)):
            scores = k[head, : t + 1] @ q[head, t] / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max())
            out[head, t] = weights / weights.sum() @ v[head, : t + 1]
    return np.einsum("nhf,nfd->hd", out, p["out"]["kernel"]) + p["out"]["bias"]


def reference_logits(params, user, history, feedback, item, features, num_layers=2):
    """Logits (B, F) of the whole model, every layer run on every position."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    user_features, item_features = ([np.asarray(x, np.float64) for x in f] for f in (features.user, features.item))
    items = layer_norm(p["item_norm"], encode(p["item_encoder"], range(NUM_ITEMS + 1), item_features))
    users = encode(p["user_encoder"], user, user_features)
    logits = []
    for b in range(len(user)):
        placed = layer_norm(p["token_norm"], items[history[b]] + p["position"]["embedding"])
        x = np.concatenate([placed, dense(p["feedback"], feedback[b])], axis=-1)
        for n in range(num_layers):
            layer = p[f"layers_{n}"]
            x = layer_norm(layer["attention_norm"], x + attend(layer["attention"], x))
            x = layer_norm(layer["feed_norm"], x + dense(layer["feed_out"], np.maximum(dense(layer["feed_in"], x), 0)))
        state = np.concatenate([x[-1], layer_norm(p["user_norm"], users[b])])
        hidden = layer_norm(p["scorer_norm"], np.maximum(dense(p["scorer_in"], state), 0))
        weights = dense(p["scorer_out"], hidden).reshape(-1, items.shape[-1])
        logits.append((layer_norm(p["attention_norm"], weights) * items[item[b]]).mean(-1))
    return np.array(logits)


def make_case(num_feedback, num_layers=2, length=HISTORY):
    generator = np.random.default_rng(0)
    features = one_hot_features(
        {"age": generator.integers(-1, 3, NUM_USERS), "city": generator.integers(0, 2, NUM_USERS)},
        {"kind": generator.integers(-1, 2, NUM_ITEMS), "author": np.arange(NUM_ITEMS) * 50},
        generator.random((NUM_ITEMS, 4)) < 0.4,
    )
    model = UserResponseModel(
        NUM_USERS,
        NUM_ITEMS,
        length,
        num_feedback,
        latent=8,
        dim=12,
        num_heads=3,
        hidden=10,
        num_layers=num_layers,
        scorer_hidden=14,
    )
    history = np.where(
        np.arange(length) < np.array([[0], [length // 2], [length]]),
        NUM_ITEMS,
        generator.integers(NUM_ITEMS, size=(BATCH, length)),
    )
    feedback = ((generator.random((BATCH, length, num_feedback)) < 0.5) & (history < NUM_ITEMS)[..., None]).astype(
        float
    )
    inputs = (np.array([0, 4, 2]), history, feedback.astype(np.float32), np.array([3, 8, 0]), features)
    shapes = jax.eval_shape(model.init, jax.random.key(1), *inputs)["params"]
    # Norm scales of one and biases of zero would hide a missing or swapped norm: draw every parameter.
    params = jax.tree.map(
        lambda x: (0.5 * generator.normal(size=x.shape) + (len(x.shape) == 1)).astype(np.float32), shapes
    )
    return model, params, inputs


def test_model_with_three_kinds_of_feedback_equals_the_float64_reference():
    model, params, inputs = make_case(3)
    actual = jax.jit(model.apply)({"params": params}, *inputs)
    assert actual.shape == (BATCH, 3)
    np.testing.assert_allclose(actual, reference_logits(params, *inputs), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("num_layers", "num_feedback", "length"), [(1, 1, 7), (2, 1, 8), (3, 2, 7), (2, 1, 1)])
def test_the_state_with_products_saved_is_the_models(num_layers, num_feedback, length):
    model, params, (user, history, feedback, _, features) = make_case(num_feedback, num_layers, length)
    apply = partial(model.apply, {"params": params})

    @jax.jit
    def both(history, feedback):
        vocabulary = apply(jnp.arange(NUM_ITEMS + 1), features.item, method="encode_items")
        users = apply(jnp.asarray(user), [x[user] for x in features.user], method="encode_users")
        plain = apply(vocabulary[history], feedback, users, method="user_state")
        table = token_table(params, vocabulary)
        return plain, frozen_user_state(params, table, history, feedback, users)

    plain, fast = both(history, feedback)
    np.testing.assert_allclose(fast, plain, rtol=2e-4, atol=2e-5)


@partial(jax.jit, static_argnums=0)
def frozen(model, params, features):
    apply = partial(model.apply, {"params": params})
    token = apply(jnp.arange(NUM_ITEMS + 1), features.item, method="encode_items")
    user = apply(jnp.arange(NUM_USERS), features.user, method="encode_users")
    return freeze_response(model, params, user=user, item=token[CATALOGUE], token=token)


@pytest.fixture(scope="module")
def case():
    model, params, inputs = make_case(1)
    return frozen(model, params, inputs[-1]), params, inputs


def test_frozen_response_gives_the_models_probability_for_each_shown_item(case):
    response, params, (user, history, feedback, _, features) = case
    events = History(
        item=jnp.asarray(np.where(history == NUM_ITEMS, 0, history), jnp.int32),
        # A click left in an empty slot must not be read.
        click=jnp.asarray((feedback[..., 0] > 0) | (history == NUM_ITEMS)),
        length=jnp.asarray((history < NUM_ITEMS).sum(-1), jnp.int32),
    )
    slate = np.array([[0, 3], [2, 1], [3, 2]])
    actual = jax.jit(jax.vmap(response.click_probability))(jnp.asarray(user, jnp.int32), jnp.asarray(slate), events)
    for k in range(2):
        logit = reference_logits(params, user, history, feedback, CATALOGUE[slate[:, k]], features)[:, 0]
        np.testing.assert_allclose(actual[:, k], 1 / (1 + np.exp(-logit)), rtol=2e-4)
    np.testing.assert_array_equal(response.item_vectors(), response.token[CATALOGUE])


def test_padding_is_attended_as_in_kuaisim(case):
    # Without a padding mask the padding item's encoding reaches the state of a user with a short history.
    response, _, (_, history, feedback, _, _) = case
    state = jax.jit(partial(response.model.apply, {"params": response.params}, method="user_state"))
    changed = response.token.at[NUM_ITEMS].add(1.0 + jnp.arange(response.token.shape[1]))
    before = state(response.token[history], feedback, response.user[:BATCH])
    after = state(changed[history], feedback, response.user[:BATCH])
    moved = np.abs(np.asarray(before - after)).max(-1)
    np.testing.assert_array_equal(moved[0], 0)  # a full history
    assert (moved[1:] > 1e-3).all()


def test_response_runs_in_the_vmapped_jitted_environment(case):
    response, _, _ = case
    world = World(
        response=response,
        starts=SessionStarts(
            user=jnp.array([0, 0, 3, 4], jnp.int32),
            item=jnp.array([0, 5, 2, 8], jnp.int32),
            click=jnp.array([True, False, True, True]),
            first=jnp.array([0, 2, 2, 2, 3, 4], jnp.int32),
        ),
        item=jnp.asarray(CATALOGUE, jnp.int32),
        is_popular=jnp.array([True, False, False, False]),
        log_popularity=jnp.zeros(4),
    )
    environment = make_environment(slate_size=2, max_len=4, history_length=HISTORY)
    keys = jax.random.split(jax.random.key(0), 400)

    @jax.jit
    @jax.vmap
    def one_step(key):
        reset_key, step_key = jax.random.split(key)
        _, state = environment.reset(reset_key, world)
        expected = response.click_probability(state.user, jnp.array([0, 2]), state.history).mean()
        return expected, environment.step(step_key, state, jnp.array([0, 2]), world)[2]

    expected, reward = one_step(keys)
    assert abs(float(expected.mean() - reward.mean())) < 4 * 0.5 / np.sqrt(800)


def test_one_hot_features_count_missing_as_a_level_and_leave_out_wide_features():
    features = one_hot_features(
        {"a": np.array([-1, 0, 2])}, {"wide": np.array([0, 64]), "b": np.array([1, -1])}, np.eye(2, dtype=bool)
    )
    np.testing.assert_array_equal(features.user[0], [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert len(features.item) == 2
    np.testing.assert_array_equal(features.item[0], [[0, 0, 1], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(features.item[1], [[1, 0], [0, 1], [0, 0]])


def make_log(num_users=60, rows_each=40, num_items=20):
    """Clicks that follow the previous row: on even items after a click, on odd ones otherwise."""
    generator = np.random.default_rng(3)
    user = np.repeat(np.arange(num_users), rows_each)
    item = generator.integers(num_items, size=len(user))
    click = np.zeros(len(user), bool)
    for row in range(len(user)):
        after_click = row % rows_each > 0 and click[row - 1]
        click[row] = generator.random() < (0.9 if (item[row] % 2 == 0) == after_click else 0.1)
    first = np.arange(num_users + 1) * rows_each
    return SessionStarts(
        *(jnp.asarray(x, jnp.int32) for x in (user, item)), jnp.asarray(click), jnp.asarray(first, jnp.int32)
    )


def test_row_histories_stop_at_the_users_first_row():
    rows = make_log(num_users=2, rows_each=5)
    item, feedback = row_histories(rows, jnp.array([0, 3, 5, 9]), length=4, padding=99)
    items, clicks = np.asarray(rows.item), np.asarray(rows.click)
    np.testing.assert_array_equal(item[0], [99] * 4)
    np.testing.assert_array_equal(item[1], [99, *items[:3]])
    np.testing.assert_array_equal(item[2], [99] * 4)
    np.testing.assert_array_equal(item[3], items[5:9])
    np.testing.assert_array_equal(feedback[1, :, 0], [0, *clicks[:3]])
    np.testing.assert_array_equal(feedback[2], 0)


def fit_log(rows, fit_rows, **options):
    features = one_hot_features({}, {}, np.zeros((20, 0), bool))
    options = {"history_length": 3, "epochs": 1, "batch_size": 32, **options}
    return fit_transformer(
        jax.random.key(0), rows, fit_rows, features=features, num_items=20, catalogue=np.arange(20), **options
    )


def test_too_few_rows_are_refused():
    with pytest.raises(InputError, match="1 rows"):
        fit_log(make_log(), np.array([4]))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fit_learns_that_clicks_depend_on_the_history():
    # Neither user nor item predicts a click here: a model without history has AUC 1/2, the truth .9.
    rows = make_log(num_users=150)
    held = np.random.default_rng(0).random(len(rows.user)) < 0.1
    response = fit_log(rows, np.flatnonzero(~held), epochs=12, learning_rate=2e-3, patience=12)
    index = np.flatnonzero(held)
    score = row_click_logit(response, rows, index)
    assert auc(score, np.asarray(rows.click)[index]) > 0.85


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fit_does_not_look_at_rows_kept_out_as_labels():
    # The last row of a user is in nobody's history: flipping its click may change nothing.
    rows = make_log()
    last = np.asarray(rows.first)[1:] - 1
    fit_rows = np.setdiff1d(np.arange(len(rows.user)), last)
    flipped = rows._replace(click=rows.click.at[last].set(~rows.click[last]))
    one, other = fit_log(rows, fit_rows), fit_log(flipped, fit_rows)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
