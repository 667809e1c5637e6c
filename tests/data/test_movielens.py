"""MovieLens: three published layouts, one log; and the real numbers of ML-100K."""

import csv
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from dsrm_jax.data.download import fetch_movielens_100k_from_wheel
from dsrm_jax.data.movielens import GENRES, load_movielens
from dsrm_jax.errors import InputError

RATINGS = [  # user, item, rating, seconds: not in time order
    (7, 20, 3, 500), (7, 10, 5, 100), (7, 30, 4, 300), (7, 40, 1, 200), (7, 50, 2, 400),
    (3, 10, 4, 900), (3, 50, 3, 901), (3, 30, 2, 899),
    (9, 20, 5, 50),
]  # fmt: skip
ITEMS = {
    10: ["Comedy", "Drama"],
    20: ["Film-Noir"],
    30: ["unknown"],
    40: ["Children's", "War"],
    50: ["Drama"],
    60: ["War"],
}
USERS = {3: (17, "M", "writer"), 7: (18, "F", "artist"), 9: (56, "M", "writer"), 12: (30, "F", "writer")}
OCCUPATION_CODES = {"artist": 2, "writer": 20}


def write_official_100k(folder):
    folder.mkdir(parents=True, exist_ok=True)
    flags = ("unknown", *GENRES)
    items = [
        "|".join([str(item), f"Caf\xe9 {item}", "01-Jan-1995", "", ""] + [str(int(name in genres)) for name in flags])
        for item, genres in ITEMS.items()
    ]
    users = ["|".join([str(user), str(age), sex, job, "T8H1N"]) for user, (age, sex, job) in USERS.items()]
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\r\n" for row in RATINGS), newline="")
    (folder / "u.item").write_text("\n".join(items) + "\n", encoding="latin-1")
    (folder / "u.user").write_text("\n".join(users) + "\n")


def write_recbole_100k(folder):
    folder.mkdir(parents=True, exist_ok=True)
    items = [f"{item}\tCaf\xe9 {item}\t1995\t{' '.join(genres)}" for item, genres in ITEMS.items()]
    users = [f"{user}\t{age}\t{sex}\t{job}\tT8H1N" for user, (age, sex, job) in USERS.items()]
    headers = {
        "inter": "user_id:token item_id:token rating:float timestamp:float",
        "item": "item_id:token movie_title:token_seq release_year:token class:token_seq",
        "user": "user_id:token age:token gender:token occupation:token zip_code:token",
    }
    for kind, rows in (("inter", ["\t".join(map(str, row)) for row in RATINGS]), ("item", items), ("user", users)):
        text = "\n".join([headers[kind].replace(" ", "\t"), *rows])
        (folder / f"ml-100k.{kind}").write_text(text, encoding="utf-8")


def write_official_1m(folder):
    folder.mkdir(parents=True, exist_ok=True)
    # U+0085 is a line end to `str.splitlines` and a plain character to MovieLens.
    items = [f"{item}::Caf\x85 {item} (1995)::{'|'.join(genres)}" for item, genres in ITEMS.items()]
    ages = {17: 1, 18: 18, 56: 56, 30: 25}
    users = [f"{user}::{sex}::{ages[age]}::{OCCUPATION_CODES[job]}::55117" for user, (age, sex, job) in USERS.items()]
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "movies.dat").write_text("\n".join(items).replace("unknown", "Drama"), encoding="latin-1")
    (folder / "users.dat").write_text("\n".join(users) + "\n")


WRITERS = {"official": write_official_100k, "recbole": write_recbole_100k, "1m": write_official_1m}
CONFIG = {"test_fraction": 0.4}


def load(folder, layout, **settings):
    WRITERS[layout](folder)
    return load_movielens(folder, "1m" if layout == "1m" else "100k", **CONFIG | settings)


def as_rows(log, part):
    return [
        (int(log.user_ids[user]), int(log.item_ids[item]), float(feedback), int(time) // 1000, bool(click))
        for user, item, feedback, time, click in zip(
            part.user, part.item, part.feedback, part.time, part.click, strict=True
        )
    ]


@pytest.mark.parametrize("layout", WRITERS)
def test_each_layout_gives_every_users_latest_rows_to_the_held_out_part(layout, tmp_path):
    log = load(tmp_path, layout)
    train, test = [], []
    for user in (3, 7, 9):
        rows = sorted((row for row in RATINGS if row[0] == user), key=lambda row: row[3])
        held = int(np.floor(0.4 * len(rows) + 0.5)) if len(rows) > 1 else 0
        labelled = [(*row, row[2] >= 4) for row in rows]
        train += labelled[: len(rows) - held]
        test += labelled[len(rows) - held :]
    assert as_rows(log, log.train) == train
    assert as_rows(log, log.test) == test
    assert log.item_ids[log.catalogue].tolist() == sorted({row[1] for row in test})


@pytest.mark.parametrize("layout", WRITERS)
def test_each_layout_gives_the_same_genres_and_users(layout, tmp_path):
    log = load(tmp_path, layout)
    genres = {
        int(item): [name for name, flag in zip(log.category_names, flags, strict=True) if flag]
        for item, flags in zip(log.item_ids, log.categories, strict=True)
    }
    rated = {item: sorted(ITEMS[item]) for item in (10, 20, 30, 40, 50)}
    if layout == "1m":
        rated[30] = ["Drama"]
    assert {item: sorted(found) for item, found in genres.items()} == rated
    assert log.user_ids.tolist() == [3, 7, 9]
    assert log.user_features["gender"].tolist() == [1, 0, 1]
    assert log.user_features["occupation"].tolist() == [1, 0, 1]
    age = log.user_features["age"]
    assert age[0] < age[1] < age[2]


def test_both_100k_layouts_give_equal_logs_also_one_level_below(tmp_path):
    first, second = load(tmp_path / "a", "official"), None
    write_recbole_100k(tmp_path / "b" / "dataset")
    second = load_movielens(tmp_path / "b", "100k", **CONFIG)
    for part in ("train", "test"):
        assert as_rows(first, getattr(first, part)) == as_rows(second, getattr(second, part))
    np.testing.assert_array_equal(first.categories, second.categories)
    assert first.category_names == second.category_names
    for name, codes in first.user_features.items():
        np.testing.assert_array_equal(codes, second.user_features[name])


def test_the_like_threshold_moves_the_clicks_alone(tmp_path):
    strict = load(tmp_path, "official", like_threshold=5.0)
    assert strict.train.click.sum() + strict.test.click.sum() == sum(row[2] >= 5 for row in RATINGS)
    assert sorted([*strict.train.feedback, *strict.test.feedback]) == sorted(float(row[2]) for row in RATINGS)


def test_the_train_catalogue_is_the_training_items(tmp_path):
    log = load(tmp_path, "official", catalogue="train")
    assert set(log.catalogue) == set(log.train.item)


BAD_LINES = [
    ("official", "u.data", 2, "7\t10\t5\t100", "7\t10\t6\t100", "1 to 5 stars"),
    ("official", "u.data", 2, "7\t10\t5\t100", "7\t10\tnan\t100", "1 to 5 stars"),
    ("official", "u.data", 2, "7\t10\t5\t100", "7\t10\t5", "4 columns"),
    ("official", "u.data", 2, "7\t10\t5\t100", "7\t10\t5\t100\t1", "4 columns"),
    ("official", "u.data", 2, "7\t10\t5\t100", "", "4 columns"),
    ("official", "u.data", 9, "9\t20\t5\t50", "x\t20\t5\t50", "whole number as user id"),
    ("official", "u.data", 9, "9\t20\t5\t50", "9\t-20\t5\t50", "whole number as item id"),
    ("official", "u.data", 9, "9\t20\t5\t50", "9\t20\t5\tnoon", "whole number as time"),
    ("official", "u.data", 9, "9\t20\t5\t50", "8\t20\t5\t50", "u.user lists"),
    ("official", "u.data", 9, "9\t20\t5\t50", "9\t21\t5\t50", "u.item lists"),
    ("official", "u.item", 3, "30|", "10|", "each item id once"),
    ("official", "u.item", 3, "||1|", "||2|", "flags of 0 or 1"),
    ("official", "u.user", 1, "|17|", "|old|", "an age"),
    ("official", "u.user", 2, "|F|", "|f|", "F or M"),
    ("recbole", "ml-100k.inter", 1, "rating:float", "stars:float", "expected the columns"),
    ("recbole", "ml-100k.inter", 3, "7\t10\t5\t100", "7\t10\t0\t100", "1 to 5 stars"),
    ("recbole", "ml-100k.item", 2, "Comedy Drama", "Comedy Dramma", "genres out of"),
    ("1m", "ratings.dat", 1, "7::20::3::500", "7:20::3::500", "4 columns"),
    ("1m", "movies.dat", 1, "Comedy|Drama", "Comedy,Drama", "genres out of"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "file", "line", "good", "bad", "expected"), BAD_LINES)
def test_a_bad_row_is_named_by_file_and_line(layout, file, line, good, bad, expected, tmp_path):
    WRITERS[layout](tmp_path)
    text = (tmp_path / file).read_bytes().decode("latin-1")
    assert good in text
    (tmp_path / file).write_bytes(text.replace(good, bad, 1).encode("latin-1"))
    with pytest.raises(InputError, match=expected) as caught:
        load_movielens(tmp_path, "1m" if layout == "1m" else "100k", **CONFIG)
    assert f"{tmp_path / file}, line {line}:" in str(caught.value)


def test_missing_and_empty_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"u\.data or ml-100k\.inter.*make data ENV=ml-100k"):
        load_movielens(tmp_path, "100k", **CONFIG)
    write_official_100k(tmp_path)
    with pytest.raises(InputError, match=r"ratings\.dat"):
        load_movielens(tmp_path, "1m", **CONFIG)
    (tmp_path / "u.user").unlink()
    with pytest.raises(InputError, match=r"u\.user: file not found"):
        load_movielens(tmp_path, "100k", **CONFIG)
    write_official_100k(tmp_path)
    (tmp_path / "u.data").write_text("")
    with pytest.raises(InputError, match=r"u\.data: the file has no rows"):
        load_movielens(tmp_path, "100k", **CONFIG)
    write_recbole_100k(tmp_path / "utf8")
    (tmp_path / "utf8" / "ml-100k.item").write_bytes(b"\xff")
    with pytest.raises(InputError, match="not utf-8 text"):
        load_movielens(tmp_path / "utf8", "100k", **CONFIG)


@pytest.fixture(scope="module")
def real_folder(request):
    """ML-100K out of the wheel, fetched once into DSRM_TEST_CACHE or pytest's cache."""
    root = os.environ.get("DSRM_TEST_CACHE") or request.config.cache.mkdir("data")
    try:
        with mock.patch.dict(os.environ, {"PIP_DEFAULT_TIMEOUT": "10"}):
            return fetch_movielens_100k_from_wheel(Path(root) / "ml-100k")
    except InputError as error:
        pytest.skip(f"ML-100K cannot be fetched: {error}")


@pytest.fixture(scope="module")
def real(real_folder):
    return load_movielens(real_folder, "100k")


def both(log: object, column: str) -> np.ndarray:
    return np.concatenate([getattr(part, column) for part in (log.train, log.test)])


def test_the_real_set_has_its_published_size_and_ratings(real):
    assert (len(real.train) + len(real.test), real.num_users, real.num_items) == (100_000, 943, 1_682)
    rating = both(real, "feedback")
    shares = [np.mean(rating == stars) for stars in range(1, 6)]
    np.testing.assert_allclose(shares, [0.06110, 0.11370, 0.27145, 0.34174, 0.21201], atol=1e-9)
    assert rating.mean(dtype=np.float64) == pytest.approx(3.52986, abs=1e-9)
    assert both(real, "click").mean() == pytest.approx(0.55375, abs=1e-9)


def test_the_real_set_is_as_unequal_as_measured(real):
    count = np.bincount(both(real, "item"), minlength=real.num_items).astype(np.float64)
    gini = np.abs(count[:, None] - count[None, :]).mean() / (2 * count.mean())
    assert gini == pytest.approx(0.629, abs=5e-4)
    top = np.sort(count)[::-1].cumsum() / count.sum()
    shares = [top[int(np.ceil(share * len(count))) - 1] for share in (0.01, 0.05, 0.1, 0.2)]
    np.testing.assert_allclose(shares, [0.076, 0.266, 0.429, 0.647], atol=6e-4)
    assert count.max() == 583
    assert real.categories.sum(axis=1).mean() == pytest.approx(1.72, abs=5e-3)
    share = dict(zip(real.category_names, real.categories.mean(axis=0), strict=True))
    assert (share["Drama"], share["Comedy"], share["War"]) == pytest.approx((0.431, 0.300, 0.042), abs=6e-4)


def test_the_real_rows_equal_a_plain_reading_of_the_file(real, real_folder):
    with (real_folder / "ml-100k.inter").open() as file:
        rows = [tuple(map(int, row)) for row in list(csv.reader(file, delimiter="\t"))[1:]]
    found = [row[:4] for part in (real.train, real.test) for row in as_rows(real, part)]
    assert sorted(found) == sorted(rows)


def test_the_real_split_is_four_to_one_by_time_for_every_user(real):
    latest = np.zeros(real.num_users)
    np.maximum.at(latest, real.train.user, real.train.time)
    assert np.all(real.test.time >= latest[real.test.user])
    held = np.bincount(real.test.user, minlength=943)
    rows = held + np.bincount(real.train.user, minlength=943)
    np.testing.assert_array_equal(held, (rows + 2) // 5)
    assert len(real.test) / 100_000 == pytest.approx(0.2, abs=5e-4)
