"""The decorator that makes a frozen dataclass a pytree whose floats are leaves."""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

import jax

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def configuration(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose float fields and nested configurations are pytree leaves, all others static."""
    cls = dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = [f.name for f in fields if f.type is float or dataclasses.is_dataclass(f.type)]
    meta = [f.name for f in fields if f.name not in data]
    jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=meta)
    return cls
