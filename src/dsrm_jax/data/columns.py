"""What the columns of an own log mean: ids of users and items, and feedback, whatever their types."""

import contextlib
import uuid
from typing import NamedTuple

import numpy as np
import polars as pl

from dsrm_jax.data.tables import Where, place, require
from dsrm_jax.errors import InputError

# texts that other programs write for a missing value; "NA" counts in capitals alone
MISSING = ("nan", "null", "none", "nat", "<na>", "n/a", "#n/a", "\\n")
WORDS = {"true": "1", "t": "1", "yes": "1", "y": "1", "false": "0", "f": "0", "no": "0", "n": "0"}
EXACT = 1 << 53  # from here on two whole numbers may be one float64
MOST_BYTES = 1 << 31  # of a vocabulary, which NumPy keeps at the width of its longest text


class Ids(NamedTuple):
    """A column of ids."""

    raw: np.ndarray  # `(N,)` int64, the ids themselves where `texts` is None, else positions in it
    texts: pl.Series | None  # the distinct ids, sorted
    note: str  # what was understood

    def known(self, raw: np.ndarray) -> np.ndarray:
        """Return the ids of values of `raw` as a vocabulary has them: int64, or texts of the longest one's width."""
        if self.texts is None:
            return raw
        chosen = self.texts.gather(raw)
        width = int(chosen.str.len_chars().max() or 0)  # type: ignore[arg-type]
        if 4 * width * len(raw) > MOST_BYTES:
            longest = chosen.filter(chosen.str.len_chars() == width)[0]
            raise InputError(
                f"column {self.texts.name!r}: the id {longest[:40]!r}... has {width:,} characters, too many beside {len(raw):,} "
                "ids; shorten the longest"
            )
        return np.array(chosen.to_list(), dtype=np.str_)


def ids(where: Where, values: pl.Series) -> Ids:
    """Read ids: int64 where every one is a whole number in plain form (also as ``7.0``), else texts without spaces at their ends.

    Bytes are UTF-8 text without control characters, or UUIDs where they are 16 long, or hexadecimal digits.

    Raises:
        InputError: an id is missing or a word for that (nan, NULL, ...), a number too large to be exact, or no scalar.
    """
    kind = values.dtype
    if kind.is_float():
        values = values.fill_nan(None)
        require(where, values, values.is_finite(), "an id")
        exact = "an id; a number with a fraction holds none exactly from 9,007,199,254,740,992 on: write whole numbers or text"
        require(where, values, values.abs() < EXACT, exact)
        if (values == values.floor()).all():
            return Ids(values.cast(pl.Int64).to_numpy(), None, "whole numbers")
    if kind.is_integer() and values.cast(pl.Int64, strict=False).null_count() == values.null_count():
        require(where, values, values.is_not_null(), "an id")
        return Ids(values.cast(pl.Int64).to_numpy(), None, "whole numbers")
    if kind == pl.Binary:
        values = _texts_of_bytes(where, values)
    elif kind.is_nested() or kind == pl.Object:
        raise InputError(f"{place(where, 0)}, column {values.name!r}: its type is {kind}; expected one id a row")
    texts = values.cast(pl.String)
    require(where, texts, texts.is_not_null(), "an id")
    return _of_texts(where, texts)


def _of_texts(where: Where, texts: pl.Series) -> Ids:
    distinct = texts.unique().sort()
    code = texts.cast(pl.Enum(distinct)).to_physical().to_numpy()
    bare = distinct.str.strip_chars()
    nothing = (bare == "") | (bare == "NA") | bare.str.to_lowercase().is_in(MISSING)
    if nothing.any():
        good = pl.Series(~nothing.to_numpy()[code])
        require(
            where,
            texts,
            good,
            "an id (this is how a missing value is written; drop such rows, or name the id otherwise)",
        )
    spaced = distinct.filter(bare != distinct)
    note = f"; spaces removed from {len(spaced):,} of them, such as {spaced[0]!r}" if len(spaced) else ""
    digits = bare.str.extract(r"^(-?\d+)(?:\.0+)?$")
    number = digits.cast(pl.Int64, strict=False)
    # "007" and "7" are different ids, so only texts that a number prints as are numbers.
    if (number.cast(pl.String) == digits).fill_null(False).all():
        note += "; such as 7.0 read as 7" if bare.str.contains(".", literal=True).any() else ""
        return Ids(number.to_numpy()[code], None, "whole numbers" + note)
    names = bare.unique().sort()
    place_of = bare.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
    return Ids(place_of[code], names.alias(texts.name), "texts" + note)


def _texts_of_bytes(where: Where, values: pl.Series) -> pl.Series:
    require(where, values, values.is_not_null(), "an id")
    with contextlib.suppress(pl.exceptions.PolarsError):
        texts = values.cast(pl.String)
        if not texts.str.contains(r"[\x00-\x1f\x7f]").any():  # else they are numbers that happen to be UTF-8
            return texts
    if (values.bin.size() == 16).all():
        distinct = values.unique()
        texts = pl.Series([str(uuid.UUID(bytes=value)) for value in distinct.to_list()], dtype=pl.String)
        return values.replace_strict(distinct, texts, return_dtype=pl.String)
    return values.bin.encode("hex")


def feedback(where: Where, values: pl.Series) -> np.ndarray:
    """Read `(N,)` float32 feedback, finite and not negative: numbers, or words such as true and no.

    Raises:
        InputError: a value of another kind.
    """
    kind = values.dtype
    if kind.is_nested() or kind.is_temporal() or kind in (pl.Object, pl.Binary):
        raise InputError(f"{place(where, 0)}, column {values.name!r}: its type is {kind}; expected 0, 1 or a number")
    if kind.is_numeric() or kind == pl.Boolean:
        texts, numbers = values, values.cast(pl.Float32, strict=False)
    else:
        texts = values.cast(pl.String).str.strip_chars()
        numbers = texts.str.to_lowercase().replace(WORDS).cast(pl.Float32, strict=False)
    require(where, texts, numbers.is_finite() & (numbers >= 0), "0, 1 or a finite number that is not negative")
    return numbers.to_numpy()


def flags(where: Where, values: pl.Series) -> np.ndarray:
    """Read `(N,)` bool: 0 and 1, or words such as true and no; `InputError` for anything else."""
    numbers = pl.Series(values.name, feedback(where, values))
    require(where, values.cast(pl.String), (numbers == 0) | (numbers == 1), "0 or 1")
    return numbers.to_numpy() == 1
