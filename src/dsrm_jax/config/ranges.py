"""The range that each number of a configuration must lie in."""

import math
import types
from collections.abc import Mapping
from typing import NamedTuple


class Range(NamedTuple):
    """An interval of numbers; `low_open` and `high_open` leave the end itself out."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a number is finite and lies inside."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            if self.low == -math.inf:
                return "a finite number"
            return f"{'more than' if self.low_open else 'at least'} {self.low:g}"
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"in {left}{self.low:.10g}, {self.high:.10g}{right}"


ANY = Range()
COUNT = Range(1, 2**31 - 1)
COUNT_OR_ZERO = Range(0, 2**31 - 1)
NON_NEGATIVE = Range(low=0)
POSITIVE = Range(low=0, low_open=True)
SHARE = Range(0, 1)
SHARE_OF_MOST = Range(0, 1, high_open=True)
POSITIVE_SHARE = Range(0, 1, low_open=True)
PROPER_SHARE = Range(0, 1, low_open=True, high_open=True)
SEED = Range(0, 2**32 - 1)

RANGES: Mapping[str, Range] = types.MappingProxyType(
    {
        "data.seed": SEED,
        "data.click_threshold": POSITIVE,
        "data.like_threshold": ANY,
        "data.between_value": SHARE,
        "data.test_fraction": PROPER_SHARE,
        "data.k_core": COUNT_OR_ZERO,
        "data.click_from": ANY,
        "synthetic.popularity_lift": ANY,
        "synthetic.popularity_bend": ANY,
        "synthetic.exposure_bias": ANY,
        "synthetic.history_scale": POSITIVE,
        "environment.slate_size": COUNT,
        "environment.max_len": COUNT,
        "environment.history_length": COUNT,
        "environment.arrival_length": COUNT_OR_ZERO,
        "environment.ad_bound": SHARE,
        "environment.ad_penalty": COUNT_OR_ZERO,
        "environment.slate_correlation": NON_NEGATIVE,
        "environment.step_cap": COUNT_OR_ZERO,
        "environment.response_dim": COUNT,
        "environment.response_epochs": COUNT,
        "encoder.dim": COUNT,
        "encoder.embedding_epochs": COUNT_OR_ZERO,
        "encoder.iterations": COUNT_OR_ZERO,
        "encoder.batch_size": COUNT,
        "encoder.learning_rate": POSITIVE,
        "encoder.hidden": COUNT,
        "purifier.diffusion_steps": COUNT,
        "purifier.sampling_steps": COUNT_OR_ZERO,
        "purifier.start_fraction": SHARE,
        "purifier.noise_scale": NON_NEGATIVE,
        "purifier.guidance_scale": NON_NEGATIVE,
        "purifier.exposure_scale": NON_NEGATIVE,
        "purifier.guidance_steps": COUNT,
        "purifier.refresh_rounds": COUNT_OR_ZERO,
        "purifier.hidden": COUNT,
        "purifier.iterations": COUNT_OR_ZERO,
        "purifier.batch_size": COUNT,
        "purifier.learning_rate": POSITIVE,
        "purifier.mask_rate": Range(0, 0.5),
        "purifier.condition_dropout": SHARE,
        "purifier.ema": SHARE_OF_MOST,
        "denoiser.beta": NON_NEGATIVE,
        "denoiser.drop_rate": SHARE_OF_MOST,
        "denoiser.ramp": COUNT_OR_ZERO,
        "denoiser.hidden": COUNT,
        "denoiser.alignment_weight": NON_NEGATIVE,
        "denoiser.uniformity_weight": NON_NEGATIVE,
        "denoiser.iterations": COUNT_OR_ZERO,
        "denoiser.batch_size": COUNT,
        "denoiser.learning_rate": POSITIVE,
        "agent.fairness_weight": NON_NEGATIVE,
        "agent.manager_discount": SHARE_OF_MOST,
        "agent.worker_discount": SHARE_OF_MOST,
        "agent.gae_lambda": SHARE,
        "agent.learning_rate": POSITIVE,
        "agent.clip": POSITIVE,
        "agent.entropy_weight": NON_NEGATIVE,
        "agent.value_weight": NON_NEGATIVE,
        "agent.max_grad_norm": POSITIVE,
        "agent.epochs": COUNT,
        "agent.minibatches": COUNT,
        "agent.hidden": COUNT,
        "agent.sharpness": POSITIVE,
        "agent.replay.capacity": COUNT,
        "agent.replay.batch_size": COUNT,
        "agent.replay.gradient_steps": COUNT,
        "agent.replay.warm_up": COUNT_OR_ZERO,
        "agent.replay.tau": POSITIVE_SHARE,
        "agent.a2c.discount": SHARE_OF_MOST,
        "agent.a2c.entropy_weight": NON_NEGATIVE,
        "agent.a2c.minibatches": COUNT,
        "agent.a2c.actor_learning_rate": POSITIVE,
        "agent.td3.discount": SHARE_OF_MOST,
        "agent.td3.actor_learning_rate": POSITIVE,
        "agent.td3.exploration": NON_NEGATIVE,
        "agent.td3.target_noise": NON_NEGATIVE,
        "agent.td3.noise_clip": NON_NEGATIVE,
        "agent.td3.delay": COUNT,
        "agent.bcq.learning_rate": POSITIVE,
        "agent.bcq.batch_size": COUNT,
        "agent.bcq.discount": SHARE_OF_MOST,
        "agent.bcq.threshold": SHARE,
        "agent.bcq.perturbation": NON_NEGATIVE,
        "agent.mofir.discount": SHARE_OF_MOST,
        "agent.mofir.preference": SHARE,
        "agent.mofir.num_preferences": COUNT,
        "agent.mofir.homotopy_steps": COUNT,
        "agent.mofir.exploration": NON_NEGATIVE,
        "agent.mofir.actor_learning_rate": POSITIVE,
        "agent.dorl.discount": SHARE_OF_MOST,
        "agent.dorl.ensemble": COUNT,
        "agent.dorl.uncertainty_weight": NON_NEGATIVE,
        "agent.dorl.entropy_weight": NON_NEGATIVE,
        "agent.dorl.window": Range(1, 11),  # a View names the last 10 events, and the shown item is one more
        "agent.dorl.negatives": COUNT_OR_ZERO,
        "agent.dorl.model_iterations": COUNT,
        "agent.dorl.model_batch_size": COUNT,
        "agent.dorl.model_learning_rate": POSITIVE,
        "agent.dnair.discount": SHARE_OF_MOST,
        "agent.dnair.novelty_weight": NON_NEGATIVE,
        "agent.dnair.exploration": SHARE,
        "agent.sac4ir.batch_size": COUNT,
        "agent.sac4ir.discount": SHARE_OF_MOST,
        "agent.sac4ir.entropy_ratio": PROPER_SHARE,
        "agent.sac4ir.initial_temperature": POSITIVE,
        "agent.sac4ir.propensity_power": NON_NEGATIVE,
        "agent.fcpo.discount": SHARE_OF_MOST,
        "agent.fcpo.popular_limit": SHARE,
        "agent.fcpo.max_kl": POSITIVE,
        "agent.fcpo.damping": POSITIVE,
        "agent.fcpo.initial_std": POSITIVE,
        "agent.fcpo.solver_iterations": COUNT,
        "agent.fcpo.backtracks": COUNT,
        "agent.fcpo.margin_rate": NON_NEGATIVE,
        "training.steps": COUNT,
        "training.num_users": COUNT,
        "training.rollout_length": COUNT,
        "training.seeds": SEED,
        "training.chunk_updates": COUNT,
        "training.checkpoint_minutes": NON_NEGATIVE,
        "training.keep_checkpoints": COUNT,
        "evaluation.num_sessions": COUNT,
        "evaluation.num_users": COUNT,
        "evaluation.confidence": PROPER_SHARE,
    }
)
