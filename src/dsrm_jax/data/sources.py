"""From a name, a file, a frame or arrays to an `InteractionLog`: which loader, which folder, cache or synthetic world."""

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from dsrm_jax import plugins
from dsrm_jax.data.cache import through_cache
from dsrm_jax.data.log import InteractionLog, Table
from dsrm_jax.data.log_files import files_of, root_of
from dsrm_jax.data.settings import DataConfig, SyntheticConfig
from dsrm_jax.errors import InputError, unknown_name
from dsrm_jax.files import digest
from dsrm_jax.settings import check
from dsrm_jax.types import Json

SEARCH_DEPTH = 3
MIN_CACHED_BYTES = 32 << 20  # less is parsed in about a second
SHARED_CODE = (
    "columns.py", "csv_layout.py", "csv_text.py", "log.py", "log_files.py", "own_items.py", "parts.py", "split.py", "tables.py",
    "times.py", "vocabulary.py",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One entry of the registry."""

    # `module:function`, called as `function(path, *, ...)` with those fields of `DataConfig` that its signature names; the
    # cache is keyed by them
    loader: str
    folders: tuple[str, ...]  # names of its folder below the default data folder, the first that exists is taken
    options: tuple[str, ...] = ()  # further arguments of the loader
    # file names of which one must be there, else an empty `path` means the synthetic world; empty: no synthetic world stands in
    files: tuple[str, ...] = ()
    drawn: bool = False  # there are no files: the loader draws a world, called as `function(name, *, ...)`


SOURCES = {
    "kuairec": Source(
        loader="dsrm_jax.data.kuairec:load_kuairec",
        folders=("kuairec", "KuaiRec"),
        files=("big_matrix.csv", "small_matrix.csv"),
    ),
    "kuairand": Source(
        loader="dsrm_jax.data.kuairand:load_kuairand",
        folders=("kuairand", "kuairand-pure", "KuaiRand-Pure"),
        files=(
            "log_standard_4_08_to_4_21_pure.csv",
            "log_standard_4_22_to_5_08_pure.csv",
            "log_random_4_22_to_5_08_pure.csv",
        ),
    ),
    "kuairec-signed": Source(loader="dsrm_jax.data.signed:load_signed", folders=("kuairec-signed", "kuairec")),
    "ml-100k": Source(loader="dsrm_jax.data.movielens:load_movielens", folders=("ml-100k",), options=("100k",)),
    "ml-1m": Source(loader="dsrm_jax.data.movielens:load_movielens", folders=("ml-1m",), options=("1m",)),
    "coat": Source(loader="dsrm_jax.data.coat:load_coat", folders=("coat",)),
    "log": Source(loader="dsrm_jax.data.own:load_own", folders=()),
    **{
        name: Source(loader="dsrm_jax.data.sardine:generate_sardine", folders=(), drawn=True)
        for name in ("sardine-topk-bored", "sardine-topk-boredinf", "sardine-topk-uncertain")
    },
}


def load_log(
    source: str | os.PathLike[str] | Table | InteractionLog = DataConfig.env,
    *,
    path: str | os.PathLike[str] = DataConfig.path,
    seed: int = DataConfig.seed,
    click: str = DataConfig.click,
    click_threshold: float = DataConfig.click_threshold,
    like_threshold: float = DataConfig.like_threshold,
    between_value: float = DataConfig.between_value,
    test_fraction: float = DataConfig.test_fraction,
    k_core: int = DataConfig.k_core,
    catalogue: str = DataConfig.catalogue,
    user_column: str = DataConfig.user_column,
    item_column: str = DataConfig.item_column,
    click_column: str = DataConfig.click_column,
    time_column: str = DataConfig.time_column,
    time_format: str = DataConfig.time_format,
    random_column: str = DataConfig.random_column,
    category_column: str = DataConfig.category_column,
    feature_columns: str = DataConfig.feature_columns,
    item_path: str = DataConfig.item_path,
    click_from: float = DataConfig.click_from,
    cache: bool = DataConfig.cache,
    popularity_lift: float = SyntheticConfig.popularity_lift,
    popularity_bend: float = SyntheticConfig.popularity_bend,
    exposure_bias: float = SyntheticConfig.exposure_bias,
    history_scale: float = SyntheticConfig.history_scale,
    taste: str = SyntheticConfig.taste,
    link: str = SyntheticConfig.link,
) -> InteractionLog:
    """Return the log of a data set, of a file, or of rows in memory; `log.source` says where it came from.

    `source` is a data set's name, a CSV or Parquet file, a folder of them or a pattern, a Polars or pandas frame, anything with
    an Arrow stream (DuckDB, PyArrow), a mapping of names to arrays, or `module:function`: a function that returns one of those,
    or a log, given the keywords that it names. The keywords are those fields of `DataConfig` and `SyntheticConfig`, which say
    what each means; columns are named for rows in memory too.

    With an empty `path` a data set's files are looked for in the default data folder (environment variable
    DSRM_DATA, else `data/` under the current directory), and for kuairec and kuairand the embedded synthetic
    world stands in where there are none. With `cache` the parsed log of 32 MB of files or more is kept
    in `.dsrm_cache/` beside the data set's folder, or in the folder that DSRM_CACHE names.

    Raises:
        InputError: an unknown name, a `path` without the data set's files, a value out of range, or a file, column or row
            that cannot be used.
    """
    given = dict(locals())  # the keywords, for the loader to choose from
    del given["source"]
    for cls, section in ((DataConfig, "data"), (SyntheticConfig, "synthetic")):
        check(cls, section, **{f.name: given[f.name] for f in fields(cls) if f.name in given})
    if isinstance(source, str) and plugins.is_plugin(source):
        made = plugins.call(plugins.load(source, what="data set (data.env)"), given)
        if isinstance(made, str):
            raise InputError(f"{source} returned a text, expected a log, a frame or a mapping of arrays")
        log = load_log(made, **given)
        return log if log is made else replace(log, source=f"{source}: {log.source}")
    if isinstance(source, InteractionLog):
        return source
    if isinstance(source, str) and source in SOURCES:
        return _of_data_set(source, given)
    if isinstance(source, str) and not (Path(source).suffix or os.sep in source or Path(source).exists()):
        error = unknown_name("data set (data.env)", source, SOURCES)
        raise InputError(f"{error}, or module:function for one of your own")
    if isinstance(source, (str, os.PathLike)):
        return _of_data_set("log", given | {"path": source})
    load = _loader("dsrm_jax.data.own:load_own")
    return load(source, **plugins.asked(load, given, source))


def check_source(name: str) -> None:
    """Refuse, with an `InputError`, a data set's name, or a function in place of one, that does not exist."""
    if name not in SOURCES:
        plugins.load(name, what="environment (env)", names=SOURCES)


def _of_data_set(env: str, given: Json) -> InteractionLog:
    source = SOURCES[env]
    if source.drawn:
        draw = _loader(source.loader)
        return draw(env, **plugins.asked(draw, given, env))
    path = data_path(env, given["path"])
    if source.files and not given["path"] and locate(path, source.files) is None:
        from dsrm_jax.data.synthetic import generate

        return generate(env, **plugins.asked(generate, given, env))
    if env != "log" and not path.exists():
        hint = (
            "check data.path"
            if given["path"]
            else f"fetch it with `make data ENV={env}`, or name its folder in data.path"
        )
        raise InputError(f"{path}: no such file or folder for data set {env!r}; {hint}")
    load = _loader(source.loader)
    keywords = plugins.asked(load, given, path, *source.options)

    def parse() -> InteractionLog:
        return load(path, *source.options, **keywords)

    if env == "log":
        files = files_of(path) + (files_of(Path(given["item_path"]).expanduser()) if given["item_path"] else [])
    else:
        files = source_files(path)
    if not given["cache"] or sum(file.stat().st_size for file in files) < MIN_CACHED_BYTES:
        return parse()
    settings = {"env": env} | keywords
    code = [Path(inspect.getfile(load)), *(Path(__file__).with_name(name) for name in SHARED_CODE)]
    return through_cache(cache_path(path, settings), files, settings, parse, code=code)


def data_path(env: str, path: str | os.PathLike[str] = "") -> Path:
    """Return the folder (env=log: file, folder or pattern) of a data set, `path` where the user named it; it may not exist.

    Raises:
        InputError: env=log without a path.
    """
    if path:
        return Path(path).expanduser()
    folders = SOURCES[env].folders
    if not folders:
        raise InputError(f"data.env={env!r} needs data.path, the CSV or Parquet file (or folder, or pattern) to read")
    root = Path(os.environ.get("DSRM_DATA") or "data").expanduser()
    candidates = [root / folder for folder in folders]
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def locate(folder: str | Path, names: Sequence[str]) -> Path | None:
    """Return the first folder that has one of the named files, however an archive was unpacked, or None.

    Looked at are the folder itself, `data/` below it, and the same one folder further down.
    """
    folder = Path(folder)
    candidates = [folder, folder / "data"]
    if folder.is_dir():
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        candidates += [candidate for path in below for candidate in (path, path / "data")]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in names):
            return candidate
    return None


def cache_path(path: Path, settings: Mapping[str, object]) -> Path:
    """Return the cache file of a folder or file read with these settings, the data set's name among them under `env`."""
    folder = os.environ.get("DSRM_CACHE")
    beside = path.resolve().parent if path.exists() else root_of(path.resolve())
    root = Path(folder).expanduser() if folder else beside / ".dsrm_cache"
    return root / f"{settings['env']}-{digest([str(path.resolve()), settings])[:16]}.npz"


def source_files(path: Path) -> list[Path]:
    """Return the files that a cache depends on: the file itself, or a folder's, hidden ones left out."""
    if path.is_file():
        return [path]
    found = [
        file for depth in range(1, SEARCH_DEPTH + 1) for file in path.glob("/".join("*" * depth)) if file.is_file()
    ]
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]


def _loader(name: str) -> Callable[..., InteractionLog]:
    module, function = name.split(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        if error.name != "polars":
            raise
        raise InputError("reading data files needs Polars; install it with `pip install dsrm-jax[data]`") from error
