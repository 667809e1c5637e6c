"""Settings of the data room: which log is read and how, and how contaminated the embedded worlds are."""

from typing import Literal

from dsrm_jax.settings import ANY, COUNT_OR_ZERO, POSITIVE, PROPER_SHARE, SEED, SHARE, configuration, number


@configuration
class DataConfig:
    """Which log to read, and how it becomes clicks, a split and a catalogue."""

    env: str = "kuairec"
    """Data set: kuairec, kuairand, kuairec-signed, ml-100k, ml-1m, coat, sardine-topk-bored, -boredinf or -uncertain (drawn),
    log (any CSV or Parquet files), or module:function for one of your own, which returns a log, a frame or a mapping of
    names to arrays."""
    path: str = ""
    """Folder that holds the data set's files (env=log: a file, a folder of files, or a pattern such as 'logs/*.csv'); empty: the
    default data folder, and the embedded synthetic world where the files are absent (kuairec and kuairand)."""
    seed: int = number(default=0, within=SEED)
    """Seed of the synthetic world and of random splits."""
    click: Literal["valid_play", "watch_ratio"] = "valid_play"
    """KuaiRec's click: valid_play (watched to the end if at most 7 s long, else more than 7 s) or watch_ratio."""
    click_threshold: float = number(default=1.0, within=POSITIVE)
    """Watch ratio (play time / duration) from which on a play is a click, where click=watch_ratio."""
    like_threshold: float = number(default=4.0, within=ANY)
    """Rating from which on a rating of MovieLens or Coat is a click, in stars."""
    between_value: float = number(default=0.5, within=SHARE)
    """Click probability of a pair in neither extreme of the signed KuaiRec sample, in [0, 1]."""
    test_fraction: float = number(default=0.2, within=PROPER_SHARE)
    """Share of each user's rows, the latest, held out where the source has no split of its own, in (0, 1)."""
    k_core: int = number(default=0, within=COUNT_OR_ZERO)
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
    """Column of times, numbers or dates (env=log); empty: `time`, where there is one, else file order."""
    time_format: str = ""
    """What times are (env=log): s, ms, us or ns since 1970, order (of any numbers), or directives such as '%d/%m/%Y %H:%M';
    empty: recognised, and refused where day and month cannot be told apart."""
    random_column: str = ""
    """0/1 column of rows that were shown at random (env=log): they are held out and all others train; empty: each user's latest
    rows are held out."""
    category_column: str = ""
    """Column of an item's categories, with | between them (env=log), in the log or in item_path."""
    feature_columns: str = ""
    """Columns of item features, with commas between them (env=log), in the log or in item_path."""
    item_path: str = ""
    """Table with a row an item (env=log), its id in item_column; empty: category and feature columns are the log's own."""
    click_from: float = number(default=1.0, within=ANY)
    """Feedback from which on a row is a click (env=log)."""
    cache: bool = True
    """Keep the parsed log in a columnar cache beside the data folder, and Stage I in the user's cache folder."""


@configuration
class SyntheticConfig:
    """The embedded worlds: how far feedback is bent away from preference, and of which family preference is."""

    popularity_lift: float = number(default=-1.0, within=ANY)
    """Mean lift of the click logit per standard deviation of log-popularity; negative: the calibrated value."""
    popularity_bend: float = number(default=-1.0, within=ANY)
    """Standard deviation over users of that lift (conformity), in logits: it makes popularity a direction of the learnt
    embeddings; negative: the calibrated value."""
    exposure_bias: float = number(default=-1.0, within=ANY)
    """Exponent on an item's popularity in the logging policy (1: popularity driven, 0: uniform exposure); negative:
    the calibrated value."""
    history_scale: float = number(default=1.0, within=POSITIVE)
    """Multiplier of the number of logged rows per user (1: Table 1's)."""
    taste: Literal["mixed", "clusters", "heavy", "curved", "interests"] = "mixed"
    """How users' tastes are distributed: mixed (nearly Gaussian mixtures of interests in tags), clusters (twelve tight groups),
    heavy (Student's t with 3 degrees of freedom), curved (places on a map of two dimensions on which items lie, too: what is near
    is liked), interests (three for each user, an item is liked for the one that it meets best)."""
    link: Literal["logistic", "cauchit"] = "logistic"
    """From a click logit to a chance: logistic, or cauchit, whose tails never forget that people click on anything."""
