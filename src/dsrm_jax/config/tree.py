"""The configuration tree: frozen dataclasses, serialisable, one class per room.

Fields annotated `float` are pytree leaves, so a sweep can `vmap` over them; every other field (shapes, counts, choices)
is static metadata of the pytree. Each field's docstring is its help text on the command line, with its unit.
"""

import dataclasses
from dataclasses import field
from typing import Any, Literal

from dsrm_jax.config.agent import AgentConfig
from dsrm_jax.config.leaves import configuration


@configuration
class DataConfig:
    """Which log to read, and how it becomes clicks, a split and a catalogue."""

    env: str = "kuairec"
    """Data set: kuairec, kuairand, kuairec-signed, ml-100k, ml-1m, or log (any CSV or Parquet file)."""
    path: str = ""
    """Folder (or, for env=log, file) that holds the data set's files; empty: the default data folder, and the
    embedded synthetic world where the files are absent (kuairec and kuairand)."""
    seed: int = 0
    """Seed of the synthetic world and of random splits."""
    click: Literal["valid_play", "watch_ratio"] = "valid_play"
    """KuaiRec's click: valid_play (watched to the end if at most 7 s long, else more than 7 s) or watch_ratio."""
    click_threshold: float = 1.0
    """Watch ratio (play time / duration) from which on a play is a click, where click=watch_ratio."""
    like_threshold: float = 4.0
    """Rating from which on a MovieLens rating is a click, in stars."""
    between_value: float = 0.5
    """Click probability of a pair in neither extreme of the signed KuaiRec sample, in [0, 1]."""
    test_fraction: float = 0.2
    """Share of each user's rows, the latest, held out where the source has no split of its own, in (0, 1)."""
    k_core: int = 0
    """Keep users and items with at least this many rows, repeatedly; 0: keep all."""
    catalogue: Literal["test", "train"] = "test"
    """Items recommended from: those of the test split (the paper's Table 1) or of the training log."""
    user_column: str = "user_id"
    """Column of user ids (env=log)."""
    item_column: str = "item_id"
    """Column of item ids (env=log)."""
    click_column: str = "click"
    """Column of 0/1 clicks or graded feedback (env=log)."""
    time_column: str = ""
    """Column of times, any sortable number (env=log); empty: file order."""
    click_from: float = 1.0
    """Feedback from which on a row is a click (env=log)."""
    cache: bool = True
    """Keep the parsed log in a columnar cache beside the data folder."""


@configuration
class SyntheticConfig:
    """Contamination of the embedded worlds: how far feedback is bent away from preference."""

    popularity_lift: float = -1.0
    """Mean lift of the click logit per standard deviation of log-popularity; negative: the calibrated value."""
    popularity_bend: float = -1.0
    """Standard deviation over users of that lift (conformity), in logits: it makes popularity a direction of the learnt
    embeddings; negative: the calibrated value."""
    exposure_bias: float = -1.0
    """Exponent on an item's popularity in the logging policy (1: popularity driven, 0: uniform exposure); negative:
    the calibrated value."""
    history_scale: float = 1.0
    """Multiplier of the number of logged rows per user (1: Table 1's)."""


@configuration
class EnvironmentConfig:
    """The simulator of sessions (facts: KuaiSim with the fairness-aware leave rule)."""

    slate_size: int = 6
    """Items per slate, K."""
    max_len: int = 30
    """Initial temper T0, the paper's Max Len, in steps."""
    history_length: int = 256
    """Events that a user's history holds, H: with 50 at arrival and slates of 6 a whole session of 34 steps."""
    arrival_length: int = 50
    """Logged events that a user arrives with, at most; at most H are held."""
    ad_bound: float = 0.3
    """A slate with abs(2s - 1) at or above this bound costs extra temper; s is its popular share."""
    ad_penalty: int = 1
    """Extra temper lost for such a slate, in steps; 0 turns the rule off."""
    double_sigmoid: bool = False
    """Apply the sigmoid twice, as KuaiSim does: click probabilities then lie in [.5, .731]."""
    slate_correlation: float = 0.0
    """Weight of KuaiSim's intra-slate correlation penalty on click probabilities."""
    step_cap: int = 0
    """Truncate sessions after this many steps; 0: max_len."""
    response: Literal["auto", "synthetic", "fitted", "transformer", "matrix"] = "auto"
    """Where the simulated users come from; auto: the truth of a synthetic world, else a fully observed matrix, else fitted."""
    response_dim: int = 16
    """Factors of a fitted response model."""
    response_epochs: int = 4
    """Passes over the log when a response model is fitted."""


@configuration
class EncoderConfig:
    """Item embeddings and history encoder, pre-trained on the training log and frozen."""

    kind: Literal["clicked", "exposure"] = "clicked"
    """clicked: a linear map of the clicked items' mean, the field's usual state; exposure: a network that also sees what was
    shown and not clicked."""
    dim: int = 16
    """Item embedding dimensions; the observed state has one more, the user's bias."""
    embedding_epochs: int = 3
    """Passes over the training log for the item embeddings."""
    iterations: int = 1500
    """Gradient steps for the history encoder."""
    batch_size: int = 256
    """Histories per gradient step."""
    learning_rate: float = 3e-3
    """Adam step size."""
    hidden: int = 128
    """Width of the network (kind=exposure)."""


@configuration
class PurifierConfig:
    """The diffusion state module."""

    kind: Literal[
        "auto", "identity", "paper", "sdedit", "masked", "guided", "regression", "rce", "tce", "bod"
    ] = "auto"
    """auto: what the method calls for (identity for methods that act on the observed state); identity: observed state as it is;
    paper: Eq. (7) as printed; sdedit: unconditional, from a partly noised observed state; masked: cleaner target, masked-view
    condition; guided: unconditional over clean preference, guided by the likelihood of the clicks given what was shown and by
    that of what the log showed;
    regression: masked's network and pairs without diffusion, a control; rce, tce, bod: denoising losses (section denoiser)."""
    target: Literal[
        "full", "split_half", "inverse_propensity", "popularity_corruption", "random_exposure"
    ] = "full"
    """What masked and regression learn to reconstruct: full: the user's full-log embedding without the window's own events;
    split_half: the encoding of the half of the window that the condition does not see; inverse_propensity: the same with
    popular items thinned; popularity_corruption: the window before some of its events were replaced by popular ones;
    random_exposure: the encoding of the user's answers to random items in the training simulator."""
    diffusion_steps: int = 20
    """Length S of the reverse scan."""
    schedule: Literal["linear", "rescaled", "cosine"] = "rescaled"
    """Variance schedule: linear 1e-4..2e-2 as in DDPM, the same rescaled by 1000/S, or cosine."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """Reverse step: ddpm is Eq. (3), ddim the implicit one, which stays accurate over fewer levels."""
    sampling_steps: int = 0
    """Levels that the reverse scan visits, evenly spaced among S; 0: all."""
    start_fraction: float = 0.0
    """Level k* that the reverse process starts from, as a share of the levels visited, in [0, 1]; 0: the kind's own, a third
    for sdedit and all for the others."""
    noise_scale: float = 0.0
    """Standard deviation multiplier of the noise in the starting state and the reverse steps; 0: deterministic."""
    guidance_scale: float = 1.0
    """Exponent of the clicks' likelihood (kind=guided); 1: Bayes' rule."""
    exposure_scale: float = 1.0
    """Exponent of the likelihood of what the log showed (kind=guided); 1: as estimated from the log, 0: not read but in users'
    posteriors, which Stage I learns from."""
    guidance_steps: int = 1
    """Newton steps of the guidance per level (kind=guided)."""
    refresh_rounds: int = 0
    """Times that Stage I goes on with histories which a policy on the purified state made in the training simulator."""
    hidden: int = 64
    """Width of the denoiser."""
    iterations: int = 1500
    """Gradient steps of Stage I."""
    batch_size: int = 512
    """States per gradient step."""
    learning_rate: float = 5e-3
    """Adam step size."""
    mask_rate: float = 0.3
    """Mean share of history events hidden from the condition in training, in [0, .5]; each view draws up to twice this."""
    condition_dropout: float = 0.1
    """Probability that the whole condition is dropped in training."""
    ema: float = 0.999
    """Decay of the exponential moving average of the denoiser's weights."""


@configuration
class DenoiserConfig:
    """The denoising losses that stand in for the diffusion in the ablations: R-CE, T-CE and BOD."""

    reading: Literal["pretrain", "online"] = "pretrain"
    """pretrain: the history encoder is trained again with the denoising loss; online: that encoder, and every click of the
    history weighted by the denoiser."""
    beta: float = 0.2
    """Exponent of R-CE's weights, at least 0; 0: plain cross-entropy."""
    drop_rate: float = 0.2
    """Share of a batch, all of it positives, that T-CE drops in the end, in [0, 1)."""
    ramp: int = 500
    """Gradient steps over which T-CE's share rises from 0."""
    hidden: int = 64
    """Width of BOD's weight generator."""
    alignment_weight: float = 1.0
    """Weight of the alignment term in BOD's inner loss."""
    uniformity_weight: float = 0.5
    """Weight of the uniformity term in BOD's inner loss."""
    iterations: int = 1500
    """Gradient steps."""
    batch_size: int = 128
    """Histories per gradient step."""
    learning_rate: float = 3e-3
    """Adam step size."""


@configuration
class TrainingConfig:
    """The loop."""

    steps: int = 3200
    """Batched environment steps."""
    num_users: int = 64
    """Users in parallel, B."""
    rollout_length: int = 16
    """Steps between updates, T."""
    seeds: tuple[int, ...] = (11, 15, 19)
    """One policy per seed, all in one vmapped program."""
    chunk_updates: int = 5
    """Updates per host round trip (progress, logs)."""
    checkpoint_minutes: float = 3.0
    """Minutes between checkpoints."""
    keep_checkpoints: int = 3
    """Newest checkpoints kept."""
    tensorboard: bool = True
    """Also write TensorBoard event files, where tensorboardX is installed."""


@configuration
class EvaluationConfig:
    """Held-out sessions."""

    num_sessions: int = 1000
    """Complete sessions per seed in the test simulator."""
    num_users: int = 250
    """Sessions in parallel."""
    greedy: bool = True
    """Act by the mode of the policy; otherwise sample from it."""
    confidence: float = 0.95
    """Level of the intervals."""


@configuration
class Config:
    """Everything that decides a run's numbers."""

    data: DataConfig = field(default_factory=DataConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    purifier: PurifierConfig = field(default_factory=PurifierConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Return the configuration as nested plain dictionaries, ready for JSON or TOML."""
    return dataclasses.asdict(config)
