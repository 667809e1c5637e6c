"""Raw ids and raw categorical values to dense indices and back."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dsrm_jax.errors import InputError


def vocabulary(*ids: np.ndarray) -> np.ndarray:
    """Return the distinct raw ids of several columns of integers or strings: `(V,)` sorted, integers as int64."""
    joined = np.unique(np.concatenate([_unique(column) for column in ids]))
    return joined.astype(np.int64) if joined.dtype.kind in "iu" else joined


def to_index(ids: np.ndarray, known: np.ndarray, *, what: str = "id", missing: bool = False) -> np.ndarray:
    """Map `(N,)` raw ids to their positions in a vocabulary, `(V,)` sorted, unique raw ids: int32 in [0, V).

    Where ids may be `missing`, unknown ones become -1; `what` they name, such as `"user_id"`, is for the message.

    Raises:
        InputError: an id is not in the vocabulary, and none may be missing.
    """
    ids = np.asarray(ids)
    index = np.searchsorted(known, ids).astype(np.int32)
    np.minimum(index, max(len(known) - 1, 0), out=index)
    found = known[index] == ids if len(known) else np.zeros(len(ids), dtype=bool)
    if missing:
        return np.where(found, index, np.int32(-1))
    if not found.all():
        stranger = ids[~found][0].item()
        raise InputError(f"{what} {stranger!r} is not one of the {len(known)} known ids; expected one of the log's")
    return index


def category_codes(values: Sequence[str | None]) -> np.ndarray:
    """Number the levels of a column of texts, by value where all are numbers, else alphabetically: `(N,)` int32, -1 for None."""
    levels = {value for value in values if value is not None}
    try:
        order = sorted(levels, key=lambda level: (float(level), level))
    except ValueError:
        order = sorted(levels)
    code: dict[str | None, int] = {level: number for number, level in enumerate(order)}
    code[None] = -1
    return np.fromiter((code[value] for value in values), dtype=np.int32, count=len(values))


def align_features(
    ids: np.ndarray, columns: Mapping[str, Sequence[str | None]], known: np.ndarray
) -> dict[str, np.ndarray]:
    """Bring a feature table's columns into a vocabulary's order: name to `(V,)` int32 codes, -1 where value or row is missing.

    Codes are numbered over the whole table, so they do not depend on which rows the log happens to hold. `ids` are the `(N,)` raw
    ids of the table's rows, each at most once, `columns` name to N texts, None where missing, `known` the log's sorted raw ids.
    """
    index = to_index(ids, known, missing=True)
    rows = np.flatnonzero(index >= 0)
    features = {}
    for name, values in columns.items():
        feature = np.full(len(known), -1, dtype=np.int32)
        feature[index[rows]] = category_codes(values)[rows]
        features[name] = feature
    return features


def multi_hot(ids: np.ndarray, tags: Iterable[Sequence[int]], known: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Bring a table of tag lists into a vocabulary's order: `(I, C)` bool, true where the item has the tag, and the tags' names.

    `ids` are the `(N,)` raw item ids of the table's rows, `tags` N lists of numbers, empty where missing, `known` the log's
    sorted item ids. The names are in numerical order; C counts the whole table's tags.
    """
    tags = list(tags)
    names = sorted({tag for row in tags for tag in row})
    column = {tag: number for number, tag in enumerate(names)}
    hot = np.zeros((len(known), len(names)), dtype=bool)
    for item, row in zip(to_index(ids, known, missing=True), tags, strict=True):
        if item >= 0:
            hot[item, [column[tag] for tag in row]] = True
    return hot, tuple(str(name) for name in names)


def _unique(ids: np.ndarray) -> np.ndarray:
    """Return the distinct ids; where they are small whole numbers by counting, which sorts nothing."""
    ids = np.asarray(ids)
    if len(ids) and ids.dtype.kind in "iu" and ids.min() >= 0 and ids.max() < max(len(ids), 1 << 16):
        return np.flatnonzero(np.bincount(ids))
    return np.unique(ids)
