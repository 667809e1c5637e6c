"""The signed KuaiRec sample: promises kept on made files, and the real statistics."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score

from dsrm_jax.data.signed import NUM_ITEMS, NUM_USERS, load_signed
from dsrm_jax.errors import InputError

HEADER = "user_id,video_id,label,split\n"


@pytest.fixture(scope="module")
def pairs():
    """2,000 distinct random pairs and labels."""
    rng = np.random.default_rng(5)
    cell = rng.choice(NUM_USERS * NUM_ITEMS, size=2000, replace=False)
    return cell // NUM_ITEMS, cell % NUM_ITEMS, rng.integers(0, 2, size=2000)


@pytest.fixture(scope="module")
def made_folder(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("signed")
    write(folder, [f"{user},{item},{label},train" for user, item, label in zip(*pairs, strict=True)])
    return folder


@pytest.fixture(scope="module")
def made(made_folder):
    return load_signed(made_folder, between_value=0.25, test_fraction=0.3, seed=3)


def write(folder, rows):
    (folder / "kuairec_signed.csv").write_text(HEADER + "".join(row + "\n" for row in rows))


def full(log):
    """Both matrices as one, in the order of the users."""
    value = np.full((NUM_USERS, NUM_ITEMS), np.nan)
    for matrix in (log.train_matrix, log.test_matrix):
        value[matrix.user] = matrix.value
    return value


def test_every_pair_has_its_label_or_the_value_between(made, pairs):
    expected = np.full((NUM_USERS, NUM_ITEMS), 0.25)
    for user, item, label in zip(*pairs, strict=True):
        expected[user, item] = label
    np.testing.assert_array_equal(full(made), expected)
    assert made.catalogue.tolist() == list(range(NUM_ITEMS))


def test_held_out_users_are_others_and_a_share_of_all(made):
    train, test = set(made.train_matrix.user.tolist()), set(made.test_matrix.user.tolist())
    assert train | test == set(range(NUM_USERS))
    assert not train & test
    assert len(test) == round(0.3 * NUM_USERS)
    assert set(made.train.user.tolist()) <= train
    assert set(made.test.user.tolist()) <= test


def test_rows_are_the_signed_pairs_in_an_order_that_is_not_the_files(made, pairs):
    found = set()
    for part in (made.train, made.test):
        np.testing.assert_array_equal(part.click, part.feedback == 1.0)
        assert np.all(np.diff(part.user) >= 0)
        same = part.user[1:] == part.user[:-1]
        assert np.all(np.diff(part.time)[same] > 0)
        found |= set(zip(part.user.tolist(), part.item.tolist(), part.click.tolist(), strict=True))
    assert found == {(user, item, label == 1) for user, item, label in np.transpose(pairs).tolist()}
    times = np.concatenate([made.train.time, made.test.time])
    assert sorted(times) == list(range(2000))
    position = {cell: row for row, cell in enumerate(zip(*(column.tolist() for column in pairs[:2]), strict=True))}
    order = [position[cell] for cell in zip(made.train.user.tolist(), made.train.item.tolist(), strict=True)]
    assert abs(spearmanr(made.train.time, order).statistic) < 0.1


def test_the_seed_decides_the_users_and_the_order(made_folder, made):
    config = {"between_value": 0.25, "test_fraction": 0.3, "seed": 3}
    again, other = (load_signed(made_folder, **config), load_signed(made_folder, test_fraction=0.3, seed=4))
    np.testing.assert_array_equal(again.test_matrix.user, made.test_matrix.user)
    np.testing.assert_array_equal(again.train.time, made.train.time)
    assert set(other.test_matrix.user.tolist()) != set(made.test_matrix.user.tolist())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("5,6,2,train", "'label': 2 is not allowed; expected 0 or 1"),
        ("5,6,0.5,train", "line 3, column 'label': '0.5'"),
        ("5,6,,train", "'label': the value is missing"),
        ("1411,6,1,train", "'user_id': 1411 is not allowed; expected 0 to 1410"),
        ("5,3327,1,train", "expected 0 to 3326"),
        ("-1,6,1,train", "expected 0 to 1410"),
        ("3,4,0,valid", "each pair of user_id and video_id once"),
    ],
)
def test_a_bad_row_is_named_by_its_line(row, message, tmp_path):
    write(tmp_path, ["3,4,1,train", row])
    with pytest.raises(InputError, match=message) as caught:
        load_signed(tmp_path)
    assert "line 3" in str(caught.value)


@pytest.mark.parametrize("settings", [{"between_value": 1.5}, {"between_value": float("nan")}, {"test_fraction": 1.0}])
def test_settings_out_of_range_are_input_errors(settings, made_folder):
    with pytest.raises(InputError, match=next(iter(settings))):
        load_signed(made_folder, **settings)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"holds no kuairec_signed\.csv"):
        load_signed(tmp_path)


@pytest.fixture(scope="module")
def shared_folder():
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("DSRM_SHARED_DATA") or default) / "kuairec"
    if not (folder / "kuairec_signed.csv").is_file():
        pytest.skip("the signed KuaiRec sample is not here; DSRM_SHARED_DATA names the folder above it")
    return folder


@pytest.fixture(scope="module")
def real(shared_folder):
    return load_signed(shared_folder)


def gini(count):
    return np.abs(count[:, None] - count[None, :]).mean() / (2 * count.mean())


def test_the_real_sample_has_its_size_and_share_of_positives(real):
    assert len(real.train) + len(real.test) == 203_187
    assert int(real.train.click.sum() + real.test.click.sum()) == 29_248
    value = full(real)
    assert (value == 1.0).sum() == 29_248
    assert (value == 0.5).sum() == NUM_USERS * NUM_ITEMS - 203_187
    assert real.train_matrix.value.shape == (1129, 3327)
    assert real.test_matrix.value.shape == (282, 3327)


def test_the_real_sample_is_as_unequal_over_users_as_measured(real):
    value = full(real)
    positive, negative = (value == 1.0).sum(axis=1), (value == 0.0).sum(axis=1)
    assert (positive.mean(), positive.std()) == pytest.approx((20.7, 36.1), abs=0.06)
    assert np.quantile(positive, [0.25, 0.5, 0.75, 0.95, 1]).tolist() == pytest.approx([3, 7, 20, 92, 381], abs=0.5)
    assert (positive == 0).sum() == 100
    assert (negative.mean(), negative.std()) == pytest.approx((123, 119), abs=0.6)
    assert np.quantile(negative, [0.25, 0.5, 0.75, 1]).tolist() == [70, 89, 127, 1392]
    assert (gini(positive), gini(negative)) == pytest.approx((0.683, 0.347), abs=6e-4)


def test_the_real_sample_is_as_unequal_over_items_as_measured(real):
    value = full(real)
    positive, negative = (value == 1.0).sum(axis=0), (value == 0.0).sum(axis=0)
    assert (positive.mean(), positive.std()) == pytest.approx((8.8, 8.5), abs=0.06)
    assert np.quantile(positive, [0.25, 0.5, 0.75, 1]).tolist() == [4, 7, 11, 122]
    assert (positive == 0).sum() == 184
    assert (negative.mean(), negative.std()) == pytest.approx((52, 143), abs=0.6)
    assert np.quantile(negative, [0.25, 0.5, 0.75, 0.95, 1]).tolist() == pytest.approx([15, 20, 28, 175, 1122], abs=0.5)
    assert (gini(positive), gini(negative)) == pytest.approx((0.430, 0.649), abs=6e-4)
    assert spearmanr(positive, negative).statistic == pytest.approx(-0.69, abs=6e-3)


def test_popular_items_of_the_real_sample_are_the_skipped_ones(real):
    """The docstring's warning: exposure counts signed pairs, most of which are skips."""
    liked = real.train_matrix.value.mean(axis=0)
    assert liked[real.is_popular].mean() < liked[~real.is_popular].mean() - 0.03


def test_additive_effects_alone_predict_the_real_sign(real, shared_folder):
    """The docstring's AUC .949 and .961, from the file's train part to its valid part."""
    file = pl.read_csv(shared_folder / "kuairec_signed.csv")
    user, item = file["user_id"].to_numpy(), file["video_id"].to_numpy()
    label, is_train = full(real)[user, item], (file["split"] == "train").to_numpy()
    row = np.arange(len(file))
    effects = sparse.csr_matrix(
        (np.ones(2 * len(file)), (np.tile(row, 2), np.concatenate([user, NUM_USERS + item]))),
        shape=(len(file), NUM_USERS + NUM_ITEMS),
    )
    linear = Ridge(alpha=1.0, solver="sparse_cg").fit(effects[is_train], label[is_train])
    logistic = LogisticRegression(max_iter=200).fit(effects[is_train], label[is_train])
    scores = (linear.predict(effects[~is_train]), logistic.decision_function(effects[~is_train]))
    auc = [roc_auc_score(label[~is_train], score) for score in scores]
    assert auc == pytest.approx([0.949, 0.961], abs=1e-3)
