"""The configuration tree, assembled from the rooms' settings, and a pytree.

Fields annotated `float` are pytree leaves, so a sweep can `vmap` over them; every other field (shapes, counts, choices)
is static metadata of the pytree. Each field's docstring is its help text on the command line, with its unit.
"""

import dataclasses
from dataclasses import field

import jax

from dsrm_jax.agents.methods import AgentConfig
from dsrm_jax.data.settings import DataConfig, SyntheticConfig
from dsrm_jax.evaluation.settings import EvaluationConfig
from dsrm_jax.purify.settings import DenoiserConfig, EncoderConfig, PurifierConfig
from dsrm_jax.settings import Settings, configuration
from dsrm_jax.simulator.settings import EnvironmentConfig, WorldConfig
from dsrm_jax.training.settings import TrainingConfig
from dsrm_jax.types import Json


@configuration
class Config:
    """Everything that decides a run's numbers."""

    data: DataConfig = field(default_factory=DataConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    purifier: PurifierConfig = field(default_factory=PurifierConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def _register(cls: type) -> None:
    """Tell JAX that a settings class, and those inside it, are pytrees."""
    fields = dataclasses.fields(cls)
    sections = [f.name for f in fields if dataclasses.is_dataclass(f.type)]
    for f in fields:
        if f.name in sections and isinstance(f.type, type):
            _register(f.type)
    data = [f.name for f in fields if f.type is float or f.name in sections]
    jax.tree_util.register_dataclass(cls, data, [f.name for f in fields if f.name not in data])


_register(Config)


def to_dict(config: Settings) -> Json:
    """Return the configuration as nested plain dictionaries, ready for JSON or TOML."""
    return dataclasses.asdict(config)
