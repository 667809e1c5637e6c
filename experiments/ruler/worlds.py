"""Users who click what they are shown: training users known only by their rows, test users by short histories.

Shapes: V items, D coordinates of a taste, U training users of R rows, B test users of H events and G held-out items.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.ruler.truths import Truth, make_truth

ITEM_SPREAD = 0.5  # of item vectors: the logits of a user of unit tastes then spread by 2 in 16 coordinates
FACTOR_SCALE, BIAS_SCALE = (
    3.0**-0.5,
    0.5,
)  # the state's units: unit tastes then have the variance that the library expects


class Size(NamedTuple):
    """How large the ruler is."""

    dim: int = 16
    num_items: int = 2_000
    train_users: int = 4_000
    train_rows: int = 200
    test_users: int = 256
    lengths: tuple[int, ...] = (5, 20, 100)
    held_out: int = 200  # items whose clicks are predicted
    draws: int = 1_024  # of exact inference, the last of each method's samples
    checked_users: int = 24  # test users whose exact answer is got a second time
    particles: int = 1_024


QUICK = Size(8, 200, 200, 60, 24, (5, 20), 50, 256, 8, 256)


class Events(NamedTuple):
    """What users were shown, and their clicks; B may be any leading axis."""

    vectors: Float[np.ndarray, "B H D"]
    bias: Float[np.ndarray, "B H"]
    click: Bool[np.ndarray, "B H"]

    def first(self, number: int) -> "Events":
        """Return the first events of each user."""
        return Events(*(x[:, :number] for x in self))

    def of(self, users: slice) -> "Events":
        """Return some of the users."""
        return Events(*(x[users] for x in self))


class World(NamedTuple):
    """One truth's users and clicks in coordinates in which tastes have about unit variance: logit = <x, vector> + bias."""

    truth: Truth
    vectors: Float[np.ndarray, "V D"]  # the last coordinate is the same for all items: a user's own click rate
    bias: Float[np.ndarray, "V"]
    train: Float[np.ndarray, "U D"]  # tastes of the training users, of which only `known prior` may make use
    train_item: Int[np.ndarray, "U R"]
    train_click: Bool[np.ndarray, "U R"]
    test: Float[np.ndarray, "B D"]
    test_item: Int[np.ndarray, "B H"]
    test_click: Bool[np.ndarray, "B H"]
    held_out: Int[np.ndarray, "B G"]

    @property
    def train_events(self) -> Events:
        """The training users' rows."""
        return Events(self.vectors[self.train_item], self.bias[self.train_item], self.train_click)

    @property
    def test_events(self) -> Events:
        """The test users' longest histories."""
        return Events(self.vectors[self.test_item], self.bias[self.test_item], self.test_click)


def make_world(name: str, seed: int, size: Size) -> World:
    """Draw a truth, items, users and clicks; items are shown uniformly, so that what is shown tells nothing."""
    generator = np.random.default_rng([seed, *name.encode()])
    truth = make_truth(name, generator, size.dim)
    vectors = ITEM_SPREAD * generator.normal(size=(size.num_items, size.dim))
    vectors[:, -1] = BIAS_SCALE
    bias = -0.5 + 0.7 * generator.normal(size=size.num_items)
    train, test = truth.states(generator, size.train_users), truth.states(generator, size.test_users)

    def shown(users: int, rows: int) -> np.ndarray:
        return generator.integers(size.num_items, size=(users, rows))

    def clicks(states: np.ndarray, item: np.ndarray) -> np.ndarray:
        logit = np.matmul(vectors[item], states[:, :, None])[..., 0] + bias[item]
        return generator.uniform(size=logit.shape) < chance(logit)

    train_item, test_item = shown(size.train_users, size.train_rows), shown(size.test_users, max(size.lengths))
    train_click, test_click = clicks(train, train_item), clicks(test, test_item)
    held_out = shown(size.test_users, size.held_out)
    return World(truth, vectors, bias, train, train_item, train_click, test, test_item, test_click, held_out)


def shuffled(world: World, seed: int) -> World:
    """Return the world with the training rows dealt to training users at random: no row tells of its user any more."""
    order = np.random.default_rng([seed, 1]).permutation(world.train_item.size)
    deal = lambda rows: rows.reshape(-1)[order].reshape(rows.shape)  # noqa: E731
    return world._replace(train_item=deal(world.train_item), train_click=deal(world.train_click))


def chance(logit: np.ndarray) -> np.ndarray:
    """Return click probabilities."""
    return 1 / (1 + np.exp(-np.clip(logit, -60, 60)))
