"""Settings of the simulator of sessions."""

from dataclasses import field
from typing import Literal

from dsrm_jax.settings import ANY, COUNT, COUNT_OR_ZERO, NON_NEGATIVE, SHARE, SHARE_OF_MOST, configuration, number


@configuration
class EnvironmentConfig:
    """The simulator of sessions: KuaiSim's, with the fairness-aware leave rule."""

    slate_size: int = number(default=6, within=COUNT)
    """Items per slate, K."""
    max_len: int = number(default=30, within=COUNT)
    """Initial temper T0, the paper's Max Len, in steps."""
    history_length: int = number(default=256, within=COUNT)
    """Events that a user's history holds, H: with 50 at arrival and slates of 6 a whole session of 34 steps."""
    arrival_length: int = number(default=50, within=COUNT_OR_ZERO)
    """Logged events that a user arrives with, at most; at most H are held."""
    ad_bound: float = number(default=0.3, within=SHARE)
    """A slate with abs(2s - 1) at or above this bound costs extra temper; s is its popular share."""
    ad_penalty: int = number(default=1, within=COUNT_OR_ZERO)
    """Extra temper lost for such a slate, in steps; 0 turns the rule off."""
    double_sigmoid: bool = False
    """Apply the sigmoid twice, as KuaiSim does: click probabilities then lie in [.5, .731]."""
    slate_correlation: float = number(default=0.0, within=NON_NEGATIVE)
    """Weight of KuaiSim's intra-slate correlation penalty on click probabilities."""
    position_bias: float = number(default=1.0, within=SHARE)
    """Factor on click probabilities from one slot to the next: slot k, counted from 0, has this to the power k; 1: none."""
    step_cap: int = number(default=0, within=COUNT_OR_ZERO)
    """Truncate sessions after this many steps; 0: max_len."""
    reward: str = ""
    """Reward of a slate, module:function of (clicks, slate, world); empty: the share of its items that were clicked."""
    leave: str = ""
    """When users leave, module:function that returns a Leave; empty: temper, as the other fields say."""
    response: str = "auto"
    """Where the simulated users come from: synthetic, fitted, transformer, matrix, or module:function of (key, log, rows, users);
    auto: the truth of a synthetic world, else a fully observed matrix, else fitted."""
    train_response: str = ""
    """Where the users of the TRAINING simulator come from, named as in `response`; empty: as there, so that policies learn in the
    truth that they are measured in. `fitted`, beside a synthetic or observed truth, gives each simulator a truth of its own."""
    response_dim: int = number(default=16, within=COUNT)
    """Factors of a fitted response model."""
    response_epochs: int = number(default=4, within=COUNT)
    """Passes over the log when a response model is fitted."""


@configuration
class AppealConfig:
    """Popular items appeal to each user in a measure of their own."""

    offset: float = number(default=0.0, within=ANY)
    """Added to every click logit."""
    mean: float = number(default=0.7, within=ANY)
    """Mean of what popular items get beside it, over the users."""
    spread: float = number(default=0.7, within=NON_NEGATIVE)
    """Standard deviation of it."""


@configuration
class MoodConfig:
    """The appetite for popular items comes and goes within a session."""

    spread: float = number(default=2.0, within=NON_NEGATIVE)
    """Standard deviation of the mood, in click logits of popular items."""
    memory: float = number(default=0.8, within=SHARE)
    """Correlation of the mood at two steps in a row."""


@configuration
class SatisfactionConfig:
    """Net popular exposure wears users out beyond a tolerance of their own."""

    memory: float = number(default=0.8, within=SHARE)
    """Share of the net exposure that a step keeps, beta."""
    start: float = number(default=0.4, within=SHARE)
    """Net exposure on arrival."""
    slope: float = number(default=6.0, within=NON_NEGATIVE)
    """Click logit lost per unit of net exposure beyond the tolerance."""
    lowest_tolerance: float = number(default=0.2, within=SHARE)
    """Lower end of the tolerances, which are uniform over the users."""
    highest_tolerance: float = number(default=0.8, within=SHARE)
    """Upper end of the tolerances."""


@configuration
class ToleranceConfig:
    """A slate whose popular share is too far from a user's own centre costs extra temper."""

    bound: float = number(default=0.2, within=SHARE)
    """Distance from the centre from which on a slate costs it."""
    penalty: int = number(default=1, within=COUNT_OR_ZERO)
    """Extra temper lost for such a slate, in steps."""
    mean: float = number(default=0.417, within=SHARE)
    """Mean of the centres over the users."""
    spread: float = number(default=0.155, within=NON_NEGATIVE)
    """Standard deviation of the centres, before they are held within [0, 1]."""
    choices: int = number(default=50, within=COUNT)
    """Choices of a user elsewhere of which the platform knows the popular share."""


@configuration
class PlatformConfig:
    """The popular share of what all users are shown has a budget, held by a price."""

    target: float = number(default=0.5, within=SHARE)
    """Popular share to be kept."""
    window: int = number(default=10, within=COUNT)
    """Steps whose share is observed."""
    gain: float = number(default=0.05, within=NON_NEGATIVE)
    """How much a step whose share is 1 too high raises the price. A rule that knows clicks and pays at once what it is charged
    keeps the platform's AD at .09, .05, .03, .11 and .76 with .01, .02, .05, .1 and .3: beyond .1 price and share swing."""
    price: float = number(default=0.0, within=ANY)
    """Price that a platform starts with, in rewards for a popular share of 1."""
    largest_price: float = number(default=5.0, within=NON_NEGATIVE)
    """Bound on the price, in either direction."""


@configuration
class RetentionConfig:
    """Users come back after a session unless what they were shown has worn them out."""

    memory: float = number(default=0.8, within=SHARE)
    """Share of the net exposure that a step keeps, beta."""
    start: float = number(default=0.4, within=SHARE)
    """Net exposure on first arrival."""
    base: float = number(default=1.0, within=ANY)
    """Logit of coming back where the exposure is tolerated."""
    slope: float = number(default=6.0, within=NON_NEGATIVE)
    """Logit of coming back lost per unit of net exposure beyond the tolerance."""
    lowest_tolerance: float = number(default=0.2, within=SHARE)
    """Lower end of the tolerances, which are uniform over the users."""
    highest_tolerance: float = number(default=0.8, within=SHARE)
    """Upper end of the tolerances."""
    visits: int = number(default=30, within=COUNT)
    """Sessions of a user at most."""


@configuration
class FatigueConfig:
    """What was shown lately is clicked less (CIRS's exposure effect)."""

    item: float = number(default=0.5, within=NON_NEGATIVE)
    """Weight of how often an item was shown, the older the less."""
    category: float = number(default=0.05, within=NON_NEGATIVE)
    """Weight of how often items of its categories were."""
    decay: float = number(default=0.8, within=SHARE)
    """Share of its weight that a showing keeps from step to step."""
    slots: int = number(default=120, within=COUNT)
    """Items shown that are remembered each by itself, at least a slate."""


@configuration
class NoRepeatsConfig:
    """Nothing is clicked twice."""

    slots: int = number(default=180, within=COUNT)
    """Items shown that are remembered, at least a slate; 180 are a session of 30 slates of 6."""
    loss: float = number(default=20.0, within=NON_NEGATIVE)
    """Click logit that an item loses by having been shown."""


@configuration
class DriftConfig:
    """Interests in categories come and go, and grow by what is clicked."""

    spread: float = number(default=0.18, within=NON_NEGATIVE)
    """Standard deviation of the passing part, in click logits."""
    memory: float = number(default=0.7, within=SHARE)
    """Correlation of the passing part at two steps in a row."""
    malleability: float = number(default=0.3, within=SHARE)
    """How far a click moves an interest that is not there yet (RecSim's y)."""
    reach: float = number(default=0.0, within=NON_NEGATIVE)
    """Click logit of an interest that clicks have fed to the full; 0: they feed none."""


@configuration
class ClickbaitConfig:
    """Bait that is clicked wears down satisfaction, and patience with it (RecSim's long-term satisfaction)."""

    memory: float = number(default=0.7, within=SHARE_OF_MOST)
    """Share of the net positive exposure that a step keeps."""
    sensitivity: float = number(default=1.0, within=NON_NEGATIVE)
    """Logit of satisfaction per unit of exposure; RecSim's .01 leaves it near one half."""
    noise: float = number(default=0.05, within=NON_NEGATIVE)
    """Standard deviation of what moves the exposure besides."""
    gain: float = number(default=1.0, within=ANY)
    """Click logit of pure bait beyond pure substance."""
    cost: float = number(default=1.0, within=NON_NEGATIVE)
    """Temper that a slate costs a user without any satisfaction beside the paper's, in steps."""


@configuration
class BoredomConfig:
    """A topic that fills a user's latest clicks bores for a while (SARDINE)."""

    kind: Literal["churn", "topic"] = "churn"
    """What it takes away: churn, every item's appeal while any topic bores; topic, that of the boring topics alone."""
    threshold: int = number(default=5, within=COUNT)
    """Clicks from which on a topic bores, of those that are remembered."""
    window: int = number(default=5, within=COUNT)
    """Steps that a click is remembered."""
    kept: int = number(default=10, within=COUNT)
    """Clicks that are remembered at most, the latest."""
    timeout: int = number(default=5, within=COUNT)
    """Steps that boredom lasts."""
    loss: float = number(default=6.0, within=NON_NEGATIVE)
    """Click logit that a boring item loses."""


@configuration
class InfluenceConfig:
    """Clicks draw a user's vector towards what was clicked (SARDINE)."""

    omega: float = number(default=0.95, within=SHARE)
    """Share of their own vector that users keep at each slate with a click."""
    scalar_mean: bool = False
    """The public code's fault: clicks draw every component alike, towards the mean over all entries of the clicked vectors."""


@configuration
class CategoryQuitConfig:
    """Users leave when a category fills what they were shown last (EasyRL4Rec, DORL, CIRS)."""

    window: int = number(default=5, within=COUNT)
    """Items shown last, N."""
    threshold: int = number(default=1, within=COUNT_OR_ZERO)
    """Times that a category of the next item may stand among them."""
    slice_fault: bool = False
    """The public code's fault: before N items were shown, fewer of them are looked at."""


@configuration
class SardineConfig(InfluenceConfig, BoredomConfig):
    """SARDINE's users, whose own vector boredom and clicks move."""


@configuration
class WorldConfig:
    """What gives sessions memory. A named world sets fields here and in environment; what is given beside it wins."""

    name: Literal[
        "", "paper", "kuaisim", "her4if", "satisfaction", "mood", "platform", "tolerance", "retention", "easyrl4rec",
        "sardine-topk-bored", "sardine-topk-boredinf", "sardine-topk-uncertain",
    ] = ""  # fmt: skip
    """Named world, which sets fields here and in environment; empty: these fields alone."""
    mechanisms: tuple[str, ...] = ()
    """Mechanisms in force: names of the sections below, or module:function, which is called without arguments."""
    appeal: AppealConfig = field(default_factory=AppealConfig)
    mood: MoodConfig = field(default_factory=MoodConfig)
    satisfaction: SatisfactionConfig = field(default_factory=SatisfactionConfig)
    tolerance: ToleranceConfig = field(default_factory=ToleranceConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    platform: PlatformConfig = field(default_factory=PlatformConfig)
    fatigue: FatigueConfig = field(default_factory=FatigueConfig)
    no_repeats: NoRepeatsConfig = field(default_factory=NoRepeatsConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    clickbait: ClickbaitConfig = field(default_factory=ClickbaitConfig)
    boredom: BoredomConfig = field(default_factory=BoredomConfig)
    influence: InfluenceConfig = field(default_factory=InfluenceConfig)
    sardine: SardineConfig = field(default_factory=SardineConfig)
    quit: CategoryQuitConfig = field(default_factory=CategoryQuitConfig)
