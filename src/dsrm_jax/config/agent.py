"""Settings of the methods: what they share in `AgentConfig`, and one small class for what each has of its own."""

from dataclasses import field
from typing import Literal

from dsrm_jax.settings import (
    COUNT,
    COUNT_OR_ZERO,
    NON_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    PROPER_SHARE,
    SHARE,
    SHARE_OF_MOST,
    Range,
    configuration,
    number,
)


@configuration
class ReplayConfig:
    """The ring buffer of the off-policy methods, and how often they learn from it."""

    capacity: int = number(default=20480, within=COUNT)
    """Transitions kept; the oldest are overwritten."""
    batch_size: int = number(default=256, within=COUNT)
    """Transitions per gradient step."""
    gradient_steps: int = number(default=8, within=COUNT)
    """Gradient steps per rollout."""
    warm_up: int = number(default=1024, within=COUNT_OR_ZERO)
    """Transitions collected before the first gradient step, by the method's own exploring policy."""
    tau: float = number(default=0.01, within=POSITIVE_SHARE)
    """Polyak rate of the target networks, in (0, 1]."""


@configuration
class A2CConfig:
    """Advantage actor-critic."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    entropy_weight: float = number(default=0.0, within=NON_NEGATIVE)
    """Weight of the entropy bonus, per unit of normalised advantage."""
    minibatches: int = number(default=4, within=COUNT)
    """Gradient steps per rollout, each on its own share of the samples."""
    actor_learning_rate: float = number(default=3e-5, within=POSITIVE)
    """Adam step size of the policy; the value has `learning_rate`."""


@configuration
class TD3Config:
    """Twin delayed deep deterministic policy gradient over hyper-actions."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    actor_learning_rate: float = number(default=1e-3, within=POSITIVE)
    """Adam step size of the actor."""
    exploration: float = number(default=0.5, within=NON_NEGATIVE)
    """Standard deviation of the exploration noise, per coordinate of the hyper-action."""
    target_noise: float = number(default=0.1, within=NON_NEGATIVE)
    """Standard deviation of the target policy's smoothing noise."""
    noise_clip: float = number(default=0.25, within=NON_NEGATIVE)
    """Bound on the smoothing noise."""
    delay: int = number(default=2, within=COUNT)
    """Critic steps per actor step."""


@configuration
class BCQConfig:
    """Batch-constrained Q-learning, offline."""

    mode: Literal["discrete", "continuous"] = "discrete"
    """discrete: per-item Q with an imitation mask; continuous: hyper-actions from a VAE with a perturbation."""
    behaviour: Literal["log", "quota"] = "quota"
    """Where the batch comes from: the training log's own slates, or half-and-half slates of a softened encoder ranking."""
    learning_rate: float = number(default=3e-4, within=POSITIVE)
    """Adam step size."""
    batch_size: int = number(default=64, within=COUNT)
    """Transitions per gradient step."""
    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    threshold: float = number(default=0.1, within=SHARE)
    """Items whose imitation probability is below this share of the largest are masked, in [0, 1]."""
    perturbation: float = number(default=0.05, within=NON_NEGATIVE)
    """Bound on the perturbation of a continuous action."""


@configuration
class MOFIRConfig:
    """Multi-objective DDPG conditioned on a preference between utility and fairness."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    preference: float = number(default=0.5, within=SHARE)
    """Weight of utility at evaluation, in [0, 1]; fairness gets the rest."""
    fairness_reward: Literal["balance", "long_tail"] = "balance"
    """Fairness of a slate with popular share s: balance is 1 - abs(2s - 1), long_tail is 1 - s."""
    num_preferences: int = number(default=4, within=COUNT)
    """Preferences that each transition of a batch is seen under."""
    homotopy_steps: int = number(default=2000, within=COUNT)
    """Gradient steps over which the loss moves from the vector's error to the error of its mixture."""
    exploration: float = number(default=0.3, within=NON_NEGATIVE)
    """Standard deviation of the exploration noise, per coordinate of the hyper-action."""
    actor_learning_rate: float = number(default=3e-4, within=POSITIVE)
    """Adam step size of the actor."""


@configuration
class DORLConfig:
    """Offline model-based A2C with penalties for uncertainty and for low entropy."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    ensemble: int = number(default=5, within=COUNT)
    """World models."""
    uncertainty_weight: float = number(default=0.5, within=NON_NEGATIVE)
    """lambda_1, weight of the largest predicted variance."""
    entropy_weight: float = number(default=0.05, within=NON_NEGATIVE)
    """lambda_2, weight of the log's next-item entropy."""
    window: int = number(default=2, within=Range(1, 11))
    """Longest tuple of last items, the shown one among them, that the entropy is conditioned on."""
    negatives: int = number(default=1, within=COUNT_OR_ZERO)
    """Items drawn uniformly per logged click, taken as skipped, when the world models are fitted."""
    model_iterations: int = number(default=500, within=COUNT)
    """Adam steps of the world models."""
    model_batch_size: int = number(default=512, within=COUNT)
    """Logged clicks per step and model."""
    model_learning_rate: float = number(default=3e-3, within=POSITIVE)
    """Adam step size of the world models."""


@configuration
class DNaIRConfig:
    """Diversity- and novelty-aware Q-learning."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    novelty_weight: float = number(default=0.003, within=NON_NEGATIVE)
    """Weight of quality over log popularity in the shaped reward."""
    exploration: float = number(default=0.05, within=SHARE)
    """Probability that a slot is filled by a uniformly random item."""


@configuration
class SAC4IRConfig:
    """Discrete soft actor-critic whose entropy bound stands for long-term exposure fairness."""

    batch_size: int = number(default=64, within=COUNT)
    """Transitions per gradient step."""
    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step, in [0, 1)."""
    entropy_ratio: float = number(default=0.4, within=PROPER_SHARE)
    """Target entropy as a share of log J, in (0, 1)."""
    initial_temperature: float = number(default=0.01, within=POSITIVE)
    """Temperature alpha at the start."""
    propensity_power: float = number(default=0.0, within=NON_NEGATIVE)
    """Exponent of the inverse-propensity weights of clicks in the reward; 0: plain clicks."""


@configuration
class FCPOConfig:
    """Fairness-constrained policy optimisation (CPO)."""

    discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Discount per step of rewards and costs, in [0, 1)."""
    popular_limit: float = number(default=0.5, within=SHARE)
    """alpha', the largest share of popular items that a slate may hold on average, in [0, 1]; 1: no constraint."""
    max_kl: float = number(default=0.05, within=POSITIVE)
    """Trust region, in nats."""
    damping: float = number(default=0.1, within=POSITIVE)
    """Added to the diagonal of the Fisher matrix."""
    initial_std: float = number(default=0.05, within=POSITIVE)
    """Standard deviation of the policy at the start, per coordinate of the hyper-action."""
    solver_iterations: int = number(default=10, within=COUNT)
    """Conjugate-gradient iterations per solve."""
    backtracks: int = number(default=10, within=COUNT)
    """Trials of the line search, each a factor 0.8 shorter than the one before."""
    margin_rate: float = number(default=0.2, within=NON_NEGATIVE)
    """How fast the limit is tightened while the cost exceeds it; 0: never, CPO as printed."""


@configuration
class AgentConfig:
    """The policy and its optimiser."""

    method: str = "dsrm_hrl"
    """Method: one of the names that the README lists; a misspelt one is answered with the list."""
    slate_mode: Literal["quota", "penalty"] = "quota"
    """quota: the goal splits the slate between the groups exactly; penalty: Eq. (6)'s scores alone."""
    fairness: Literal["balance", "gini"] = "balance"
    """Fair in Eq. (4): balance is -abs(2s - 1), gini the marginal change of the negative item Gini."""
    fairness_weight: float = number(default=0.5, within=NON_NEGATIVE)
    """lambda of Eq. (4)."""
    manager_discount: float = number(default=0.9, within=SHARE_OF_MOST)
    """Manager's discount per step, in [0, 1)."""
    worker_discount: float = number(default=0.0, within=SHARE_OF_MOST)
    """Worker's discount per step, in [0, 1); 0: the paper's immediate engagement."""
    gae_lambda: float = number(default=0.95, within=SHARE)
    """Lambda of generalised advantage estimation, in [0, 1]."""
    learning_rate: float = number(default=1e-3, within=POSITIVE)
    """Adam step size of both levels."""
    clip: float = number(default=0.2, within=POSITIVE)
    """PPO ratio clip."""
    entropy_weight: float = number(default=0.0, within=NON_NEGATIVE)
    """Weight of the entropy bonus."""
    value_weight: float = number(default=0.5, within=NON_NEGATIVE)
    """Weight of the value losses."""
    max_grad_norm: float = number(default=1.0, within=POSITIVE)
    """Global gradient norm clip."""
    epochs: int = number(default=2, within=COUNT)
    """Passes over each rollout."""
    minibatches: int = number(default=2, within=COUNT)
    """Minibatches per pass."""
    hidden: int = number(default=64, within=COUNT)
    """Width of the policy and value networks."""
    sharpness: float = number(default=30.0, within=POSITIVE)
    """Initial inverse temperature of the worker's slate distribution, per unit of cosine."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    a2c: A2CConfig = field(default_factory=A2CConfig)
    td3: TD3Config = field(default_factory=TD3Config)
    bcq: BCQConfig = field(default_factory=BCQConfig)
    mofir: MOFIRConfig = field(default_factory=MOFIRConfig)
    dorl: DORLConfig = field(default_factory=DORLConfig)
    dnair: DNaIRConfig = field(default_factory=DNaIRConfig)
    sac4ir: SAC4IRConfig = field(default_factory=SAC4IRConfig)
    fcpo: FCPOConfig = field(default_factory=FCPOConfig)
