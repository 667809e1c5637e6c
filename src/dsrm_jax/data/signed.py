"""The signed sample of KuaiRec's fully observed matrix: skipped, watched or re-watched, for every pair."""

import os

import numpy as np
import polars as pl

from dsrm_jax.data.log import InteractionLog, Interactions, ObservedMatrix
from dsrm_jax.data.settings import DataConfig
from dsrm_jax.data.sources import locate
from dsrm_jax.data.split import index_rows
from dsrm_jax.data.tables import read_table, require, require_binary
from dsrm_jax.errors import InputError
from dsrm_jax.settings import check

FILE = "kuairec_signed.csv"
NUM_USERS = 1411
NUM_ITEMS = 3327


def load_signed(
    folder: str | os.PathLike[str],
    *,
    between_value: float = DataConfig.between_value,
    test_fraction: float = DataConfig.test_fraction,
    seed: int = DataConfig.seed,
) -> InteractionLog:
    """Read the signed KuaiRec sample as two fully observed matrices of strictly different users.

    Every pair of the 1,411 x 3,327 matrix has a value: 1 where the file labels it 1 (watched four times over), 0 where it labels
    it 0 (skipped within a tenth), and `between_value` where the file is silent, which means "between" with probability .989. A
    share `test_fraction` of the users, drawn with `seed`, is held out; the catalogue is all 3,327 videos.

    The file has neither times nor exposures, so the log's rows are stand-ins: the signed pairs of training (held-out) users are
    the training (held-out) rows, in an order drawn with the seed, click = label. Therefore exposure counts are counts of signed
    pairs, 86 % of them skips: the "popular" group holds the most skipped videos, and training users like it less than the rest
    (mean value .436 against .496). And little is personal here: user plus item effects alone predict the sign with AUC .949
    (linear) or .961 (logistic); a rank-one term on top of the linear ones gives .956. Results on this sample must say so.

    `folder` holds `kuairec_signed.csv`, or is the folder above; the keywords are those of `load_log`. The log has `train_matrix`
    and `test_matrix`, and no categories.

    Raises:
        InputError: no such file, a value outside its range, a label other than 0 or 1, a pair that occurs
            twice (file and line), or settings out of range.
    """
    check(DataConfig, "data", between_value=between_value, test_fraction=test_fraction)
    pairs = _read_pairs(folder)
    user, item, label = (pairs[name].to_numpy() for name in ("user_id", "video_id", "label"))

    rng = np.random.default_rng(seed)
    num_test = min(max(1, round(test_fraction * NUM_USERS)), NUM_USERS - 1)
    is_test = np.zeros(NUM_USERS, dtype=bool)
    is_test[rng.permutation(NUM_USERS)[:num_test]] = True
    rows = Interactions(user, item, label == 1, rng.permutation(len(user)), label.astype(np.float32))
    value = np.full((NUM_USERS, NUM_ITEMS), between_value, dtype=np.float32)
    value[user, item] = label

    return InteractionLog(
        name="kuairec-signed",
        source=f"signed KuaiRec sample, between={between_value:g}, users split by seed {seed}",
        user_ids=np.arange(NUM_USERS),
        item_ids=np.arange(NUM_ITEMS),
        train=_index(rows, ~is_test),
        test=_index(rows, is_test),
        catalogue=np.arange(NUM_ITEMS, dtype=np.int32),
        categories=np.zeros((NUM_ITEMS, 0), dtype=bool),
        train_matrix=_matrix(value, ~is_test),
        test_matrix=_matrix(value, is_test),
    )


def _read_pairs(folder: str | os.PathLike[str]) -> pl.DataFrame:
    found = locate(os.fspath(folder), (FILE,))
    if found is None:
        raise InputError(f"{folder} holds no {FILE}, nor does a folder in it: put the file there by hand")
    path = found / FILE
    pairs = read_table(path, {"user_id": pl.Int64, "video_id": pl.Int64, "label": pl.Int64})
    for name, count in (("user_id", NUM_USERS), ("video_id", NUM_ITEMS)):
        require(path, pairs[name], pairs[name].is_between(0, count - 1), f"0 to {count - 1}")
    require_binary(path, pairs, ("label",))
    pair = (pairs["user_id"] * NUM_ITEMS + pairs["video_id"]).is_first_distinct()
    require(path, pairs["video_id"], pair, "each pair of user_id and video_id once")
    return pairs


def _index(rows: Interactions, users: np.ndarray) -> Interactions:
    """Return the rows of the users that a `(1411,)` mask marks."""
    return index_rows(rows.where(users[rows.user]), np.arange(NUM_USERS), np.arange(NUM_ITEMS))


def _matrix(value: np.ndarray, users: np.ndarray) -> ObservedMatrix:
    return ObservedMatrix(user=np.flatnonzero(users).astype(np.int32), value=value[users])
