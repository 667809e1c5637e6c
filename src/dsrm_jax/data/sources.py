"""From a configuration to an `InteractionLog`: which loader, which folder, cache or synthetic world."""

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dsrm_jax.data.cache import through_cache
from dsrm_jax.data.log import POPULAR_SHARE, InteractionLog, Interactions
from dsrm_jax.errors import InputError, unknown_name

if TYPE_CHECKING:
    from dsrm_jax.data.settings import DataConfig, SyntheticConfig

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SEARCH_DEPTH = 3
BLOCK_PAIRS = 1 << 24
MIN_CACHED_BYTES = 32 << 20  # less is parsed in about a second
SHARED_CODE = ("log.py", "split.py", "tables.py", "vocabulary.py")


@dataclass(frozen=True)
class Source:
    """One entry of the registry.

    Attributes:
        loader: `module:function`, called as `function(path, config, **options)`.
        fields: the fields of `DataConfig` that change what it reads; the cache is keyed by them.
        folders: names of its folder below the default data folder, the first that exists is taken.
        options: further keyword arguments of the loader.
        files: file names of which one must be there, else an empty `path` means the synthetic world; empty:
            no synthetic world stands in.
    """

    loader: str
    fields: tuple[str, ...]
    folders: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()


SPLIT_FIELDS = ("test_fraction", "k_core", "catalogue", "seed")
SOURCES = {
    "kuairec": Source(
        loader="dsrm_jax.data.kuairec:load_kuairec",
        fields=("click", "click_threshold", "k_core", "catalogue"),
        folders=("kuairec", "KuaiRec"),
        files=("big_matrix.csv", "small_matrix.csv"),
    ),
    "kuairand": Source(
        loader="dsrm_jax.data.kuairand:load_kuairand",
        fields=("test_fraction", "k_core", "catalogue"),
        folders=("kuairand", "kuairand-pure", "KuaiRand-Pure"),
        files=(
            "log_standard_4_08_to_4_21_pure.csv",
            "log_standard_4_22_to_5_08_pure.csv",
            "log_random_4_22_to_5_08_pure.csv",
        ),
    ),
    "kuairec-signed": Source(
        loader="dsrm_jax.data.signed:load_signed",
        fields=("between_value", *SPLIT_FIELDS),
        folders=("kuairec-signed", "kuairec"),
    ),
    "ml-100k": Source(
        loader="dsrm_jax.data.movielens:load_movielens",
        fields=("like_threshold", *SPLIT_FIELDS),
        folders=("ml-100k",),
        options=(("size", "100k"),),
    ),
    "ml-1m": Source(
        loader="dsrm_jax.data.movielens:load_movielens",
        fields=("like_threshold", *SPLIT_FIELDS),
        folders=("ml-1m",),
        options=(("size", "1m"),),
    ),
    "log": Source(
        loader="dsrm_jax.data.own:load_own",
        fields=("user_column", "item_column", "click_column", "time_column", "click_from", *SPLIT_FIELDS),
        folders=(),
    ),
}


def load_log(data: "DataConfig", synthetic: "SyntheticConfig") -> InteractionLog:
    """Read the log that a configuration names.

    With an empty `data.path` the files are looked for in the default data folder (environment variable
    DSRM_DATA, else `data/` under the current directory), and for kuairec and kuairand the embedded synthetic
    world stands in where there are none. With `data.cache` the parsed log of 32 MB of files or more is kept
    in `.dsrm_cache/` beside the data set's folder, or in the folder that DSRM_CACHE names.

    Args:
        data: which data set, where, and how it is read.
        synthetic: the embedded world's parameters.

    Returns:
        The log; `log.source` says where it came from.

    Raises:
        InputError: unknown `data.env`, `data.path` without the data set's files, or a file that cannot be
            used.
    """
    if data.env not in SOURCES:
        raise unknown_name("data set (data.env)", data.env, SOURCES)
    source = SOURCES[data.env]
    path = data_path(data)
    if source.files and not data.path and not _has_files(path, source.files):
        from dsrm_jax.data.synthetic import generate

        return generate(data.env, synthetic, data.seed)
    if not path.exists():
        hint = (
            "check data.path"
            if data.path
            else f"fetch it with `make data ENV={data.env}`, or name its folder in data.path"
        )
        raise InputError(f"{path}: no such file or folder for data set {data.env!r}; {hint}")
    load = _loader(source)

    def parse() -> InteractionLog:
        return load(path, data, **dict(source.options))

    files = source_files(path)
    if not data.cache or sum(file.stat().st_size for file in files) < MIN_CACHED_BYTES:
        return parse()
    settings = {"env": data.env} | {field: getattr(data, field) for field in source.fields}
    code = [Path(inspect.getfile(load)), *(Path(__file__).with_name(name) for name in SHARED_CODE)]
    return through_cache(cache_path(path, settings), files, settings, parse, code=code)


def data_path(data: "DataConfig") -> Path:
    """Return the folder (env=log: the file) that a configuration reads; it may not exist.

    Raises:
        InputError: env=log without a path.
    """
    if data.path:
        return Path(data.path).expanduser()
    folders = SOURCES[data.env].folders
    if not folders:
        raise InputError(f"data.env={data.env!r} needs data.path, the CSV or Parquet file to read")
    root = Path(os.environ.get("DSRM_DATA") or "data").expanduser()
    candidates = [root / folder for folder in folders]
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def cache_path(path: Path, settings: dict[str, Any]) -> Path:
    """Return the cache file of a data set read with these settings: one file per folder and settings.

    Args:
        path: the data set's folder or file.
        settings: plain values that change what is parsed, with the data set's name under `env`.
    """
    folder = os.environ.get("DSRM_CACHE")
    root = Path(folder).expanduser() if folder else path.resolve().parent / ".dsrm_cache"
    text = json.dumps([str(path.resolve()), settings], sort_keys=True)
    return root / f"{settings['env']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"


def source_files(path: Path) -> list[Path]:
    """Return the files that a cache depends on: the file itself, or a folder's, hidden ones left out."""
    if path.is_file():
        return [path]
    found: list[Path] = []
    for depth in range(1, SEARCH_DEPTH + 1):
        found += path.glob("/".join("*" * depth))
    return [
        file
        for file in found
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]


def describe(log: InteractionLog) -> dict[str, Any]:
    """Compute the statistics of the paper's Table 1 and of the popularity bias.

    Args:
        log: any log.

    Returns:
        Plain numbers and texts, ready for JSON: `name`, `source`, `users`, `items`, `categories` and
        `catalogue` (counts of the vocabulary), `train` and `test` (`rows`, `users`, `items`, `click_rate` in
        [0, 1], `mean_feedback`, `density`: distinct pairs per user times item, `rows_per_user` and
        `user_click_rate`: mean and quantiles over the split's users), and `popularity` (Gini coefficient and
        the top 20 % of items' share of the training exposure, both over all items and over the catalogue,
        zero-exposure items included).
    """
    return {
        "name": log.name,
        "source": log.source,
        "users": log.num_users,
        "items": log.num_items,
        "categories": len(log.category_names),
        "catalogue": len(log.catalogue),
        "train": _describe_rows(log.train, log.num_items),
        "test": _describe_rows(log.test, log.num_items),
        "popularity": {
            "gini": gini(log.exposure),
            "top_share": top_share(log.exposure),
            "catalogue_gini": gini(log.exposure[log.catalogue]),
            "catalogue_top_share": top_share(log.exposure[log.catalogue]),
        },
    }


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient of non-negative counts, zeros included.

    Args:
        counts: `(N,)`.

    Returns:
        0 (all equal, or no mass) to 1 - 1/N (all on one).
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    total = ordered.sum()
    if total == 0:
        return 0.0
    rank = np.arange(1, len(ordered) + 1)
    return float((2 * rank - len(ordered) - 1) @ ordered / (len(ordered) * total))


def top_share(counts: np.ndarray, share: float = POPULAR_SHARE) -> float:
    """Return which share of the mass lies on the largest `ceil(share N)` counts.

    Args:
        counts: `(N,)` non-negative.
        share: share of the items, in (0, 1].

    Returns:
        A number in [0, 1]; 0 where there is no mass.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    total = ordered.sum()
    num_top = int(np.ceil(share * len(ordered)))
    return float(ordered[:num_top].sum() / total) if total else 0.0


def _describe_rows(rows: Interactions, num_items: int) -> dict[str, Any]:
    if len(rows) == 0:
        return {"rows": 0, "users": 0, "items": 0}
    counts = np.bincount(rows.user)
    active = counts > 0
    clicks = np.bincount(rows.user, weights=rows.click, minlength=len(counts))
    shown = np.count_nonzero(np.bincount(rows.item))
    return {
        "rows": len(rows),
        "users": int(active.sum()),
        "items": int(shown),
        "click_rate": float(rows.click.mean()),
        "mean_feedback": float(rows.feedback.mean(dtype=np.float64)),
        "density": _num_pairs(rows, num_items) / (int(active.sum()) * int(shown)),
        "rows_per_user": _spread(counts[active]),
        "user_click_rate": _spread(clicks[active] / counts[active]),
    }


def _num_pairs(rows: Interactions, num_items: int) -> int:
    """Count distinct (user, item) pairs by marking them, a block of users at a time."""
    num_users = int(rows.user[-1]) + 1
    start = rows.user_start(num_users)
    block = max(1, BLOCK_PAIRS // num_items)
    total = 0
    for first in range(0, num_users, block):
        part = slice(start[first], start[min(first + block, num_users)])
        seen = np.zeros(block * num_items, dtype=bool)
        seen[(rows.user[part].astype(np.int64) - first) * num_items + rows.item[part]] = True
        total += int(np.count_nonzero(seen))
    return total


def _spread(values: np.ndarray) -> dict[str, float]:
    quantiles = np.quantile(values, QUANTILES)
    named = {f"q{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": float(values.mean()), **named, "max": float(values.max())}


def _has_files(folder: Path, names: Iterable[str]) -> bool:
    below = [folder, *(path for path in sorted(folder.glob("*")) if path.is_dir())]
    return any((root / sub / name).is_file() for root in below for sub in ("", "data") for name in names)


def _loader(source: Source) -> Callable[..., InteractionLog]:
    module, function = source.loader.split(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name != "polars":
            raise
        raise InputError(
            "reading data files needs Polars; install it with `pip install dsrm-jax[data]`"
        ) from error
