"""An exported policy against the agent that it came from, in a world of twelve items."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsrm_jax.agents.methods import make_agent
from dsrm_jax.agents.slates import take_turns
from dsrm_jax.cli.pipeline import check_exportable
from dsrm_jax.config import AgentConfig, Config, EncoderConfig, EnvironmentConfig, PurifierConfig
from dsrm_jax.errors import InputError
from dsrm_jax.files import sealed
from dsrm_jax.purify.encoder import Embeddings, EncoderParams, Evidence, make_catalogue
from dsrm_jax.purify.exposure import Exposure
from dsrm_jax.purify.perception import Perception
from dsrm_jax.purify.purifier import PurifierBatch
from dsrm_jax.runs.pieces import agent_of, encoder_of, perceive_of, purifier_of
from dsrm_jax.serving.artifact import META
from dsrm_jax.serving.export import export_policy, recommender
from dsrm_jax.serving.histories import pack
from dsrm_jax.serving.load import load_policy
from dsrm_jax.simulator.environment import Observation
from dsrm_jax.simulator.response import TableResponse
from dsrm_jax.simulator.world import History, SessionStarts, World

VOCABULARY, ITEMS, H, K = 16, 12, 6, 4
RAW = np.arange(VOCABULARY) * 10 + 5
CONFIG = Config(
    environment=EnvironmentConfig(slate_size=K, history_length=H),
    encoder=EncoderConfig(dim=2),
    purifier=PurifierConfig(kind="identity"),
    agent=AgentConfig(method="hrl", hidden=8),
)


@pytest.fixture(scope="module")
def trained():
    """A policy that looks at the history: random encoder, random networks."""
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(VOCABULARY, 2)), np.ones((VOCABULARY, 1))], axis=1)
    embeddings = Embeddings(jnp.asarray(vectors, jnp.float32), jnp.asarray(rng.normal(size=VOCABULARY), jnp.float32))
    encoder = jax.eval_shape(encoder_of(CONFIG).init, jax.random.key(0), embeddings)
    network = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), encoder.network)
    world = World(
        response=TableResponse(jnp.zeros((1, ITEMS))),
        starts=SessionStarts(*(jnp.zeros(n, jnp.int32) for n in (1, 1, 1, 2))),
        item=jnp.asarray(rng.permutation(VOCABULARY)[:ITEMS], jnp.int32),
        is_popular=jnp.arange(ITEMS) < 5,
        log_popularity=jnp.asarray(rng.normal(size=ITEMS), jnp.float32),
    )
    perception = Perception(EncoderParams(embeddings, network), {})
    agent = make_agent(CONFIG.agent, slate_size=K)
    agent = jax.jit(lambda key: agent.init(key, make_catalogue(embeddings, world)))(jax.random.key(1))
    params = jax.tree.map(
        lambda x: jnp.asarray(x + 0.5 * rng.normal(size=x.shape), x.dtype), jax.device_get(agent.params)
    )
    return SimpleNamespace(world=world, perception=perception, agent=dataclasses.replace(agent, params=params))


@pytest.fixture(scope="module")
def path(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "policy.dsrm"
    export(path, CONFIG, trained, facts={"method": "hrl"})
    return path


@pytest.fixture(scope="module")
def policy(path):
    return load_policy(path)


def arrays_of(histories):
    packed = pack(histories, RAW, history_length=H)
    return packed.item, packed.click, packed.length


def export(path, config, trained, **more):
    pieces = agent_of(config), trained.agent, trained.world, trained.perception, perceive_of(config)
    export_policy(path, *pieces, item_ids=RAW, history_length=H, **more)


def random_histories(seed, users):
    rng = np.random.default_rng(seed)
    return [
        [(int(RAW[rng.integers(VOCABULARY)]), bool(rng.random() < 0.5)) for _ in range(rng.integers(0, 2 * H))]
        for _ in range(users)
    ]


def test_a_loaded_policy_recommends_what_the_agent_does(trained, policy):
    """Its slates, of which any few are balanced; nothing excluded, any number of users."""
    histories, times = random_histories(1, 40), list(range(40))
    catalogue = make_catalogue(trained.perception.encoder.embeddings, trained.world)

    @jax.jit
    def acted(item, click, length, time):
        observation = Observation(History(item, click, length), time, K * time)
        view = perceive_of(CONFIG)(trained.perception, jax.random.key(0), observation)
        slate = agent_of(CONFIG).act(trained.agent, jax.random.key(0), view, catalogue, True)[0]
        return take_turns(slate, catalogue.is_popular), view.state

    slate, state = acted(*arrays_of(histories), jnp.asarray(times, jnp.int32))
    for users in (1, 7, 40):
        found = policy.recommend(histories[:users], times[:users], exclude=None, scores=True)
        np.testing.assert_array_equal(found, RAW[np.asarray(trained.world.item[slate[:users]])])
    logit = np.einsum("bd,bkd->bk", state, catalogue.vectors[slate]) + catalogue.bias[slate]
    np.testing.assert_allclose(found.score, 1 / (1 + np.exp(-logit)), rtol=1e-5)
    assert policy.meta["method"] == "hrl"


def test_a_purifying_policy_takes_any_number_of_users_as_well(trained, tmp_path):
    """Here 70 users are asked for at once, in the file in batches; what the log did not choose is counted, or told."""
    purifying = PurifierConfig(kind="guided", diffusion_steps=3, hidden=8)
    config = dataclasses.replace(CONFIG, purifier=purifying)
    purifier = purifier_of(config)
    states = jnp.asarray(np.random.default_rng(4).normal(size=(40, 3)), jnp.float32)
    batch = PurifierBatch(states, Evidence(summary=jnp.zeros((40, 14))), states)
    params = jax.jit(purifier.init)(jax.random.key(2), batch)
    told = Exposure(jnp.zeros(3), jnp.zeros(3), 2.0 * jnp.eye(3), jnp.eye(3), jnp.zeros(()))
    perception = trained.perception.replace(purifier=params.replace(exposure=told))
    path = tmp_path / "policy.dsrm"
    export(path, config, SimpleNamespace(**vars(trained) | {"perception": perception}), platforms=("cpu",))
    histories = random_histories(5, 70)
    arrays = arrays_of(histories)
    act = jax.jit(recommender(agent_of(config), trained.agent, trained.world, perception, perceive_of(config)))
    nothing = np.zeros((70, ITEMS), bool)
    policy, none = load_policy(path), np.zeros(70, np.int32)
    for time, unlogged in ((0, 0), (1, None), (0, 3)):
        other = K * time if unlogged is None else unlogged
        slate = act(*arrays, none + time, none + other, nothing)[0]
        told = None if unlogged is None else [unlogged] * 70
        found = policy.recommend(histories, [time] * 70, told, exclude=None)
        np.testing.assert_array_equal(found, RAW[np.asarray(trained.world.item[slate])])
    assert np.any(policy.recommend(histories).item != policy.recommend(histories, unlogged=[3] * 70).item)
    with pytest.raises(InputError, match="2 unlogged for 70 histories: give one of each user"):
        policy.recommend(histories, unlogged=[0, 0])


def test_what_is_recommended_depends_on_the_history(policy):
    found = policy.recommend(random_histories(3, 20), exclude=None)
    assert len({tuple(slate) for slate in found.item.tolist()}) > 5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=9), max_size=4))
def test_histories_keep_the_last_known_events_in_order(histories):
    known = np.array([1, 3, 4, 9])
    found = pack(histories, known, history_length=5)
    for row, history in enumerate(histories):
        kept = [(known.tolist().index(i), c) for i, c in history if i in known]
        assert found.seen[row].tolist() == [i for i, _ in kept]
        kept = kept[-5:]
        assert found.length[row] == len(kept)
        held = list(zip(found.item[row].tolist(), found.click[row].tolist(), strict=True))
        assert held == [(0, False)] * (5 - len(kept)) + kept
    assert found.unknown == Counter(i for history in histories for i, _ in history if i not in known)


def test_the_loader_needs_no_training_code(path):
    """Nothing of data, simulator, state, agents or training is imported, nor what only they need."""
    script = (
        "import sys\nfrom dsrm_jax.serving.load import load_policy\n"
        f"print(load_policy({str(path)!r}).recommend([[]]).item.shape)\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('flax', 'optax', 'orbax', 'polars') "
        "or m.startswith(tuple('dsrm_jax.' + r for r in ('data', 'simulator', 'state', 'agents', 'training')))))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    assert result.stdout.split("\n")[:2] == [f"(1, {K})", "[]"]


def rewritten(path, tmp_path, **changes):
    other = tmp_path / "other.dsrm"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == META:
                meta = json.loads(data) | changes
                meta.pop("sha256")
                data = json.dumps(sealed(meta)).encode()
            new.writestr(name, data)
    return other


def test_what_does_not_fit_is_refused_in_one_sentence(path, tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent"):
        load_policy(tmp_path / "absent.dsrm")
    broken = tmp_path / "broken.dsrm"
    broken.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="no exported policy, or damaged"):
        load_policy(broken)
    with pytest.raises(InputError, match="has format 99, this version reads 4"):
        load_policy(rewritten(path, tmp_path, format=99))
    with pytest.raises(InputError, match="has format 2, this version reads 4: export it again"):
        load_policy(rewritten(path, tmp_path, format=2))
    with pytest.raises(InputError, match="exported for mars, and JAX runs on cpu here"):
        load_policy(rewritten(path, tmp_path, platforms=["mars"]))


def test_a_folder_that_cannot_be_written_leaves_nothing(trained, tmp_path):
    with pytest.raises(InputError, match=r"cannot write .*choose another file"):
        export(tmp_path / "absent" / "p.dsrm", CONFIG, trained, platforms=("cpu",))
    assert list(tmp_path.iterdir()) == []


def test_a_text_id_is_known_only_whole():
    """Ids were once cut to the longest known one, and `abcd` taken for `abc`."""
    found = pack([[("abcd", True), ("b", True)]], np.array(["abc", "b"]), history_length=3)
    assert (found.length.tolist(), found.item.tolist()) == ([1], [[0, 0, 1]])
    assert found.click.tolist() == [[False, False, True]]
    assert found.unknown == {"abcd": 1}


@pytest.mark.parametrize("known", [np.array([3, 5]), np.array(["3", "5"])])
def test_ids_of_another_kind_are_refused(known):
    other = "3" if known.dtype.kind == "i" else 3
    with pytest.raises(InputError, match=f"history 1 holds item ids such as {other!r}"):
        pack([[], [(other, True)]], known, history_length=2)


def test_no_users_get_no_slates_and_times_must_be_theirs(policy):
    for nobody in ([], {}):
        assert policy.recommend(nobody).item.shape == (0, K)
    with pytest.raises(InputError, match="2 times for 1 histories"):
        policy.recommend([[]], [0, 1])


def test_every_flipped_byte_of_a_file_is_noticed_or_harmless(path, tmp_path):
    whole, other = path.read_bytes(), tmp_path / "flipped.dsrm"
    refused = 0
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        other.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            load_policy(other, warm_up=False)
        except InputError:
            refused += 1
    assert refused > 40


def test_a_method_that_draws_its_slates_is_not_exported():
    with pytest.raises(InputError, match="method quota_random draws its slates"):
        check_exportable("quota_random")
    check_exportable("quota_greedy")


def test_a_policy_on_the_host_is_exported_as_well(trained, policy, tmp_path):
    """So it comes from a run of several devices."""
    on_host = SimpleNamespace(
        **(vars(trained) | jax.device_get({"agent": trained.agent, "perception": trained.perception}))
    )
    export(tmp_path / "host.dsrm", CONFIG, on_host, platforms=("cpu",))
    histories = random_histories(3, 5)
    found = load_policy(tmp_path / "host.dsrm").recommend(histories)
    assert np.array_equal(found.item, policy.recommend(histories).item)
