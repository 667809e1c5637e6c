"""The configuration tree: frozen dataclasses, one class per room; floats are pytree leaves, everything else is static."""

from dsrm_jax.agents.methods import (
    A2CConfig,
    AgentConfig,
    BCQConfig,
    DNaIRConfig,
    DORLConfig,
    FCPOConfig,
    MOFIRConfig,
    ReplayConfig,
    SAC4IRConfig,
    TD3Config,
)
from dsrm_jax.config.tree import Config, DataConfig, EvaluationConfig, SyntheticConfig, TrainingConfig, to_dict
from dsrm_jax.purify.settings import DenoiserConfig, EncoderConfig, PurifierConfig
from dsrm_jax.settings import configuration
from dsrm_jax.simulator.settings import EnvironmentConfig, WorldConfig
