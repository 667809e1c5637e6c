"""Embedded synthetic worlds: logs of Table 1's sizes whose true preference is known.

A world is drawn in three layers: preference (taste, appeal, bias); response, preference bent by popularity; and logging, which
decides what the training log shows. `taste` and `link` choose another family of preference than the learner's; the other settings
of `SyntheticConfig` move response and logging only, so two of them with one seed have the same users and items, and differ in
contamination alone.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from dsrm_jax.data import synthetic_exposure as policy
from dsrm_jax.data.log import InteractionLog, Interactions
from dsrm_jax.data.settings import DataConfig, SyntheticConfig
from dsrm_jax.data.synthetic_calibration import Calibration, calibration
from dsrm_jax.data.synthetic_tastes import blend, link_of, tastes
from dsrm_jax.settings import check

CALIBRATION_ROWS = 50_000
MAX_SELECTION = 8.0
DAY = 86_400_000


@dataclass(frozen=True, eq=False)
class Truth:
    """What decides every click of a synthetic world, for simulators and evaluation only.

    The click logit of user u and item i is `<user_factors[u], item_factors[i]> + user_bias[u] + appeal[i] +
    (popularity_lift + conformity[u]) * log_popularity[i]`; all but the last term is preference. Users with several interests have
    `synthetic_tastes.blend` of their inner products in place of the first term.
    """

    user_factors: np.ndarray  # `(U, F)` float32, zero mean over users
    item_factors: np.ndarray  # `(I, F)` float32, zero mean over items
    user_bias: np.ndarray  # `(U,)` float32, zero mean
    appeal: np.ndarray  # `(I,)` float32, the intercept included
    # `(U,)` float32, zero mean: how much more than average a user's clicks follow popularity; None: all alike
    conformity: np.ndarray | None
    # `(I,)` float32, mean 0 and standard deviation 1: what makes items fashionable; the logging policy's weights are `exp` of a
    # multiple of it
    log_popularity: np.ndarray
    popularity_lift: float  # mean logit lift per unit of `log_popularity`
    # `(U, M, F)` float32, of which `user_factors` is the mean over M; None: there is but one
    interests: np.ndarray | None = None
    link: str = "logistic"  # from a logit to a chance, see `SyntheticConfig.link`


def response_factors(
    truth: Truth, users: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the click logits of a block of users and items as factors and biases.

    The logit is `user @ item.T + user_bias[:, None] + item_bias`; conformity, where there is any, is the last factor. `users
    (u,)` and `items (i,)` are indices into the log's vocabularies; the result is `user (u, F + 1)`, `item (i, F + 1)` (F columns
    without conformity), `user_bias (u,)` and `item_bias (i,)`, all float32.
    """
    popularity = truth.log_popularity[items]
    user, item = truth.user_factors[users], truth.item_factors[items]
    if truth.conformity is not None:
        user, item = np.column_stack([user, truth.conformity[users]]), np.column_stack([item, popularity])
    item_bias = truth.appeal[items] + np.float32(truth.popularity_lift) * popularity
    return user, item, truth.user_bias[users], item_bias


def preference_factors(truth: Truth, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true preference, the click logit without popularity and up to a constant per user; never for training.

    `users (u,)` and `items (i,)` are indices into the log's vocabularies; the result is `user (u, F)`, `item (i, F)` and
    `appeal (i,)`, float32: preference is `user @ item.T + appeal`.
    """
    return truth.user_factors[users], truth.item_factors[items], truth.appeal[items]


def _source(env: str, config: SyntheticConfig, seed: int) -> str:
    """Name the world and every setting that is not its calibrated default, so that no table can hide one."""
    default = asdict(SyntheticConfig())
    values = {name: value if isinstance(value, str) else f"{value:g}" for name, value in asdict(config).items()}
    changed = [f", {name} {values[name]}" for name, value in asdict(config).items() if value != default[name]]
    return f"synthetic {env} world (seed {seed}{''.join(changed)})"


def generate(
    env: str,
    *,
    seed: int = DataConfig.seed,
    popularity_lift: float = SyntheticConfig.popularity_lift,
    popularity_bend: float = SyntheticConfig.popularity_bend,
    exposure_bias: float = SyntheticConfig.exposure_bias,
    history_scale: float = SyntheticConfig.history_scale,
    taste: str = SyntheticConfig.taste,
    link: str = SyntheticConfig.link,
) -> InteractionLog:
    """Draw a synthetic world and its logs; contamination leaves preference as it is, bit by bit.

    `env` is `"kuairec"` (training log by popularity; held-out block of users and items nearly complete and in neither log
    twice) or `"kuairand"` (training log by popularity and personal selection; held-out log under uniform random exposure); the
    keywords are those of `load_log`. The log's `synthetic` is the `Truth`, its `feedback` the click, its catalogue the test
    items. Time is a synthetic clock in milliseconds, increasing within each user.

    Raises:
        InputError: there is no such world, or the seed or a setting is out of range.
    """
    target = calibration(env)
    config = SyntheticConfig(popularity_lift, popularity_bend, exposure_bias, history_scale, taste, link)  # type: ignore[arg-type]
    check(DataConfig, "data", seed=seed)
    check(SyntheticConfig, "synthetic", **asdict(config))
    streams = np.random.SeedSequence([seed, target.num_users]).spawn(6)
    shapes, people, exposure, clicks, held_out, others = (np.random.Generator(np.random.SFC64(s)) for s in streams)

    log_popularity, categories = _items(shapes, target)
    activity = _activity(people, target)
    test_users = np.sort(people.choice(target.num_users, target.test_users, replace=False)).astype(np.int32)
    preference, conformity = _preference(shapes, others, target, log_popularity, categories, config)
    preference, strength = _calibrate(shapes, target, preference, conformity, activity)
    calibrated = _bend(preference, target, SyntheticConfig(), conformity)
    test_items = _test_items(shapes, target, calibrated, test_users)
    truth = _bend(preference, target, config, conformity)

    active = np.flatnonzero(activity)
    num_rows = max(len(active), round(config.history_scale * target.train_rows))
    start = _row_start(target, active, activity, num_rows)
    weights = _logging_weights(target, log_popularity, config.exposure_bias)
    if target.complete:
        shown = policy.popular_rows(exposure, start, weights, test_users, test_items)
        block = policy.complete_block(held_out, target.num_users, test_users, test_items, target.test_rows)
    else:
        factors = truth.user_factors, truth.item_factors
        shown = policy.selected_rows(
            exposure, start, weights, *factors, candidates=target.candidates, strength=strength
        )
        test_start = _row_start(target, test_users, activity, target.test_rows)
        block = test_start, policy.uniform_rows(held_out, int(test_start[-1]), test_items)
    train = _interactions(clicks, truth, start, shown, target.start_time, target.train_days)
    test_time = target.start_time + DAY * (0 if target.complete else target.train_days)
    test = _interactions(held_out, truth, *block, test_time, target.test_days)
    return InteractionLog(
        name=env,
        source=_source(env, config, seed),
        user_ids=np.arange(target.num_users),
        item_ids=np.arange(target.num_items),
        train=train,
        test=test,
        catalogue=test_items,
        categories=categories,
        category_names=tuple(str(tag) for tag in target.tags),
        user_features=_user_features(target, activity),
        item_features=_item_features(people, target, categories),
        synthetic=truth,
    )


def _or_calibrated(value: float, calibrated: float) -> float:
    return calibrated if value < 0 else float(value)


def _items(rng: np.random.Generator, target: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised log-popularity `(I,)`, least for test-only items, and categories `(I, C)`."""
    weights = policy.popularity_weights(target.num_items, target.popularity_sigma, target.popularity_clip)
    test_only = target.num_items - target.train_items
    log_weight = np.log(np.concatenate([rng.permutation(weights[test_only:]), weights[:test_only]]))
    shares = np.asarray(target.tag_counts) / sum(target.tag_counts)
    num_tags = rng.choice(len(target.tags_per_item), target.num_items, p=target.tags_per_item)
    # The n largest of log-shares plus Gumbel noise are a draw of n distinct tags.
    keys = np.log(shares) + rng.gumbel(size=(target.num_items, len(shares)))
    rank = np.argsort(np.argsort(-keys, axis=1), axis=1)
    return _standardised(log_weight).astype(np.float32), rank < num_tags[:, None]


def _standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()


def _preference(
    rng: np.random.Generator,
    others: np.random.Generator,
    target: Calibration,
    log_popularity: np.ndarray,
    categories: np.ndarray,
    config: SyntheticConfig,
) -> tuple[Truth, np.ndarray]:
    """Draw preference, without its intercept, and the users' standardised conformity `(U,)`.

    Items are the centroid of their tags and a part of their own; users mix interests in tags and have a part of their own; later
    dimensions weigh less. Another `taste` than `mixed` draws its users, and what it needs of the items, from `others`.
    """
    num_tags = len(target.tags)
    centroids = rng.standard_normal((num_tags, target.dim))
    tag_weight = categories / np.maximum(1, categories.sum(axis=1, keepdims=True))
    item = tag_weight @ centroids + 0.7 * rng.standard_normal((target.num_items, target.dim))
    shares = np.asarray(target.tag_counts) / sum(target.tag_counts)
    interest = rng.gamma(np.sqrt(shares), size=(target.num_users, num_tags))
    user = (interest / interest.sum(axis=1, keepdims=True)) @ centroids
    user += 0.5 * user.std() * rng.standard_normal(user.shape)
    interests = user[:, None]
    if config.taste != "mixed":
        interests, item = tastes(others, config.taste, target.num_users, item, tag_weight)
    interests, item = interests * 0.85 ** np.arange(target.dim), item - item.mean(axis=0)
    interests = interests - interests.reshape(-1, target.dim).mean(axis=0)
    user = interests.reshape(-1, target.dim)
    # The mean square over all pairs of an inner product is the trace of the product of the two covariances.
    variance = np.sum((user.T @ user / len(user)) * (item.T @ item / len(item)))
    interests = (interests * target.personal_sd / np.sqrt(variance)).astype(np.float32)
    # Left-skewed with a short right tail, as real items' click rates are: .13 .32 .48 .59 .72 at 5 25 50 75 95 % (KuaiRand-Pure).
    appeal = _standardised(np.log(rng.standard_exponential(target.num_items)))
    appeal = _standardised(appeal - log_popularity * np.mean(appeal * log_popularity))
    truth = Truth(
        user_factors=interests.mean(axis=1),
        item_factors=item.astype(np.float32),
        user_bias=(target.user_sd * _standardised(rng.standard_normal(target.num_users))).astype(np.float32),
        appeal=(target.appeal_sd * appeal).astype(np.float32),
        conformity=np.zeros(target.num_users, np.float32),
        log_popularity=log_popularity,
        popularity_lift=0.0,
        interests=None if interests.shape[1] == 1 else interests,
        link=config.link,
    )
    return truth, _standardised(rng.standard_normal(target.num_users)).astype(np.float32)


def _bend(preference: Truth, target: Calibration, config: SyntheticConfig, conformity: np.ndarray) -> Truth:
    """Add the response to popularity that the settings ask for."""
    bend = _or_calibrated(config.popularity_bend, target.popularity_bend)
    lift = _or_calibrated(config.popularity_lift, target.popularity_lift)
    return replace(preference, conformity=np.float32(bend) * conformity, popularity_lift=lift)


def _pair_logits(truth: Truth, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return taste (the inner product, by which the logging policy selects) and the whole click logit `(n,)` of n pairs."""
    assert truth.conformity is not None
    taste = liking = np.einsum("nf,nf->n", truth.user_factors[users], truth.item_factors[items])
    popularity = (truth.popularity_lift + truth.conformity[users]) * truth.log_popularity[items]
    if truth.interests is not None:
        liking = blend(np.einsum("nmf,nf->mn", truth.interests[users], truth.item_factors[items]))
    return taste, liking + truth.user_bias[users] + truth.appeal[items] + popularity


def block_logits(truth: Truth, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the click logits `(u, i)` of all pairs of some users and items, float32."""
    user, item, user_bias, item_bias = response_factors(truth, users, items)
    logit = user @ item.T + user_bias[:, None] + item_bias
    if truth.interests is None:
        return logit
    vectors = truth.item_factors[items].T
    liking = blend(np.stack([truth.interests[users, m] @ vectors for m in range(truth.interests.shape[1])]))
    return logit - truth.user_factors[users] @ vectors + liking


def _root(rising: Callable[[float], float], low: float, high: float, steps: int) -> float:
    """Return where a non-decreasing function crosses zero, or the nearer end of the interval."""
    for _ in range(steps):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if rising(middle) > 0.0 else (middle, high)
    return 0.5 * (low + high)


def _calibrate(
    rng: np.random.Generator, target: Calibration, preference: Truth, conformity: np.ndarray, activity: np.ndarray
) -> tuple[Truth, float]:
    """Find the intercept and the strength of personal selection that give the calibrated click rates.

    It sees the calibrated contamination whatever the settings, so that they leave preference as it is. Without selection the
    intercept answers for the logged rate; with it the intercept answers for the uniform rate and the strength for the logged one.

    Returns:
        Preference with the intercept in its appeal, and the strength s.
    """
    truth, chance = _bend(preference, target, SyntheticConfig(), conformity), link_of(preference.link)
    n = CALIBRATION_ROWS
    users = rng.choice(target.num_users, n, p=activity / activity.sum())
    table = policy.alias_table(_logging_weights(target, truth.log_popularity, -1.0))
    items = policy.draw(rng, table, n * target.candidates)
    taste, logit = _pair_logits(truth, np.repeat(users, target.candidates), items)
    if target.candidates == 1:
        rate, sample = target.log_rate, logit
    else:
        uniform = rng.integers(0, target.num_users, n), rng.integers(0, target.num_items, n)
        rate, sample = target.uniform_rate, _pair_logits(truth, *uniform)[1]
    intercept = _root(lambda x: float(chance(sample + np.float32(x)).mean()) - rate, -10.0, 10.0, steps=30)
    calibrated = replace(preference, appeal=preference.appeal + np.float32(intercept))
    if target.candidates == 1:
        return calibrated, 0.0
    clicks = chance(logit + np.float32(intercept)).reshape(n, -1)
    gumbel = rng.gumbel(size=clicks.shape).astype(np.float32)
    taste = taste.reshape(n, -1)

    def excess(strength: float) -> float:
        shown = np.argmax(np.float32(strength) * taste + gumbel, axis=1)
        return float(clicks[np.arange(n), shown].mean()) - target.log_rate

    return calibrated, _root(excess, 0.0, MAX_SELECTION, steps=16)


def _test_items(rng: np.random.Generator, target: Calibration, truth: Truth, test_users: np.ndarray) -> np.ndarray:
    """Return the sorted test items, tilted by click rate until their mean rate is the calibrated one."""
    if target.test_items == target.num_items:
        return np.arange(target.num_items, dtype=np.int32)
    rate = np.zeros(target.num_items)
    for users in np.array_split(test_users, -(-len(test_users) // 64)):
        logit = block_logits(truth, users, np.arange(target.num_items))
        rate += link_of(truth.link)(logit).sum(axis=0) / len(test_users)
    score, gumbel = _standardised(rate), rng.gumbel(size=target.num_items)

    def chosen(tilt: float) -> np.ndarray:
        return np.argpartition(-(tilt * score + gumbel), target.test_items)[: target.test_items]

    tilt = _root(lambda x: float(rate[chosen(x)].mean()) - target.uniform_rate, -5.0, 5.0, steps=20)
    return np.sort(chosen(tilt)).astype(np.int32)


def _activity(rng: np.random.Generator, target: Calibration) -> np.ndarray:
    """Return the training rows of each user `(U,)` at history scale 1; 0 for users of the test log alone."""
    rows = policy.rows_per_user(target.train_users, target.train_rows, target.row_levels, target.row_quantiles)
    activity = np.zeros(target.num_users, np.int64)
    activity[rng.choice(target.num_users, target.train_users, replace=False)] = rng.permutation(rows)
    return activity


def _row_start(target: Calibration, users: np.ndarray, activity: np.ndarray, num_rows: int) -> np.ndarray:
    """Return `(U + 1,)` row offsets of a log that these users share in the order of their activity."""
    rows = np.zeros_like(activity)
    ascending = users[np.argsort(activity[users], kind="stable")]
    rows[ascending] = policy.rows_per_user(len(users), num_rows, target.row_levels, target.row_quantiles)
    return np.concatenate([[0], np.cumsum(rows)])


def _logging_weights(target: Calibration, log_popularity: np.ndarray, exposure_bias: float) -> np.ndarray:
    """Return the logging policy's probability of each item `(I,)`; items of the test log alone get none."""
    exponent = _or_calibrated(exposure_bias, target.exposure_bias)
    calibrated = policy.popularity_weights(target.num_items, target.popularity_sigma, target.popularity_clip)
    weights = np.exp(exponent * np.log(calibrated).std() * log_popularity.astype(np.float64))
    weights[target.train_items :] = 0.0
    return weights / weights.sum()


def _interactions(
    rng: np.random.Generator, truth: Truth, start: np.ndarray, shown: np.ndarray, first_time: int, days: int
) -> Interactions:
    """Draw the clicks of the rows `shown`, users in order, and spread them evenly over the days."""
    num_users, num_items = len(start) - 1, len(truth.appeal)
    usual = truth.interests is None and truth.link == "logistic"
    user, item, user_bias, item_bias = response_factors(truth, np.arange(num_users), np.arange(num_items))
    user = np.column_stack([user, user_bias, np.ones_like(user_bias)])
    item = np.ascontiguousarray(np.column_stack([item, np.ones_like(item_bias), item_bias]).T)
    row_user = np.repeat(np.arange(num_users, dtype=np.int32), np.diff(start))
    click, time = np.empty(len(shown), bool), np.empty(len(shown), np.int64)
    for first, last in policy.user_blocks(start, num_items):
        rows = slice(start[first], start[last])
        if usual:
            logit = policy.block_product(user[first:last], item)
            odds = np.take(logit, (row_user[rows] - np.int32(first)) * np.int32(num_items) + shown[rows])
            odds = np.exp(np.negative(odds, out=odds), out=odds)  # against a click
            click[rows] = rng.random(len(odds), dtype=np.float32) * (1.0 + odds) < 1.0
        else:
            logit = _pair_logits(truth, row_user[rows], shown[rows])[1]
            click[rows] = rng.random(len(logit), dtype=np.float32) < link_of(truth.link)(logit)
        count = np.diff(start[first : last + 1])
        rank = np.arange(rows.start, rows.stop) - np.repeat(start[first:last], count)
        time[rows] = first_time + rank * np.repeat(days * DAY // np.maximum(1, count), count)
    return Interactions(row_user, shown, click, time, click.astype(np.float32))


def _user_features(target: Calibration, activity: np.ndarray) -> dict[str, np.ndarray]:
    """Return the active degree `(U,)` int32: level 0 are the most active users, shares are the data set's."""
    rank = np.empty(len(activity), np.int64)
    rank[np.argsort(-activity, kind="stable")] = np.arange(len(activity))
    edges = np.cumsum(target.active_degree)[:-1] * len(activity)
    return {"user_active_degree": np.searchsorted(edges, rank, side="right").astype(np.int32)}


def _item_features(rng: np.random.Generator, target: Calibration, categories: np.ndarray) -> dict[str, np.ndarray]:
    """Return the first tag's position, -1 without tags, and the duration bin of each item `(I,)`."""
    first = np.where(categories.any(axis=1), categories.argmax(axis=1), -1)
    mean, sd = target.duration_log
    duration = np.exp(mean + sd * rng.standard_normal(len(categories)))
    duration_bin = np.searchsorted(target.duration_edges, duration)
    return {"first_tag": first.astype(np.int32), "duration_bin": duration_bin.astype(np.int32)}
