"""The model card of a run: what it is, what it was made from, what it is worth and where it ends, for who has the files alone."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from dsrm_jax import __version__
from dsrm_jax.agents.methods import method_of
from dsrm_jax.config import Config
from dsrm_jax.config.serialise import fields
from dsrm_jax.config.worlds import whereabouts
from dsrm_jax.evaluation.tables import OPTIONAL_COLUMNS, OTHER_COLUMNS, PAPER_COLUMNS, cell, label
from dsrm_jax.runs.pieces import purifier_settings
from dsrm_jax.types import Json


def model_card(config: Config, summary: Json, *, folder: str) -> str:
    """Return the model card of a run as Markdown.

    Args:
        config: of the run.
        summary: what was measured, as of `summary.json` but for numbers that are not known, which may be NaN.
        folder: the run directory, for the commands.
    """
    method = method_of(config.agent.method)
    sections = {
        "What it is": _what(config, summary),
        "Data": _data(summary),
        "What it is worth": _worth(config, summary),
        "Warnings": _list(summary.get("warnings", ())) or "None.",
        "Limits": _list(_limits(config, summary)),
        "Settings that differ from the defaults": _list(_changed(config)) or "None.",
        "How to use it": _commands(folder, draws=method.draws),
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items())
    return f"# {method.label} on {summary.get('source', config.data.env)}\n\n{body}\n"


def _what(config: Config, summary: Json) -> str:
    method, training, environment = method_of(config.agent.method), config.training, config.environment
    kind, chosen = purifier_settings(config).kind, summary.get("choice", {}).get("chosen")
    observed = "identity" in (kind, method.state) or chosen == "observed"
    state = "observed states" if observed else f"states purified by `{kind}`"
    if chosen is not None:
        state += f": left-out users' later clicks chose `{chosen}`"
    steps = f", {summary['step']:,} of which were made" if "step" in summary else ""
    return _list(
        [
            f"{method.label} (`{method.name}`): {method.about}. It acts on {state}.",
            f"Slates of {environment.slate_size} items; world `{whereabouts(config)}`, max_len {environment.max_len}.",
            f"A policy for each of the seeds {', '.join(map(str, training.seeds))}: {training.steps:,} steps of "
            f"{training.num_users} users in parallel{steps}.",
            f"Made by dsrm-jax {__version__}; `config.json` holds every setting and the versions of packages.",
        ]
    )


def _data(summary: Json) -> str:
    data = summary.get("data", {})
    said = [str(summary.get("source", "")), *data.get("notes", ())]
    for name in ("train", "test"):
        part = data.get(name, {})
        if part.get("rows"):
            said.append(
                f"{name}: {part['rows']:,} rows of {part['users']:,} users and {part['items']:,} items, click rate "
                f"{part['click_rate']:.3f}"
            )
    if data.get("span"):
        said.append(f"from {data['span']['first']} to {data['span']['last']}")
    if "popularity" in data:
        said.append(f"the top 20 % of items are {data['popularity']['top_share']:.0%} of what was shown")
    if "data_digest" in summary:
        said.append(f"digest `{summary['data_digest']}`")
    return _list(filter(None, said))


def _worth(config: Config, summary: Json) -> str:
    results: Mapping[str, Json] = summary["results"]
    first = next(iter(results.values()))
    sessions = f"{first['sessions']:,} complete sessions of held-out users, simulated"
    optional = [column for column in OPTIONAL_COLUMNS if column[0] in first]
    tables = (_table(results, columns) for columns in (PAPER_COLUMNS, (*OTHER_COLUMNS, *optional)))
    intervals = f"± is half of the {100 * first['confidence']:g} % interval over "
    intervals += "seeds and sessions" if len(config.training.seeds) > 1 else "sessions; one seed says nothing of others"
    return "\n\n".join([" ".join(summary.get("verdicts", ())), f"Of {sessions}:", *tables, f"{intervals}."])


def _table(results: Mapping[str, Json], columns: Sequence[tuple[str, str, int]]) -> str:
    rows = [["method", *(heading for _, heading, _ in columns)], [":--", *["--:"] * len(columns)]]
    rows += [[label(name), *(cell(r[metric], digits) for metric, _, digits in columns)] for name, r in results.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _limits(config: Config, summary: Json) -> Iterator[str]:
    users = summary.get("worlds", {}).get("users", "users of a simulator")
    yield f"Every number above is of simulated sessions ({users}). Real users can differ: try it on few of them first."
    if "catalogue" in summary.get("data", {}):
        yield f"It recommends from {summary['data']['catalogue']:,} items; a new item needs training anew."
    yield "It knows a user by what it is shown of their clicks and skips; who has none gets what any newcomer gets."
    fair = "Fairness (AD) is measured between the popular fifth of the items and all others, half of the slots to each."
    kept = "" if config.world.mechanisms else " Users of this world leave sooner where it is broken."
    yield f"{fair}{kept} It says nothing of who makes the items, nor of groups of users."


def _changed(config: Config) -> Iterator[str]:
    default = dict(fields(Config()))
    for name, value in fields(config):
        if value != default[name]:
            yield f"`{name}` {value!r} (default {default[name]!r})"


def _commands(folder: str, *, draws: bool) -> str:
    commands = [f"dsrm-jax evaluate {folder}"]
    if not draws:
        commands += [
            f"dsrm-jax export {folder} --out policy.dsrm",
            f"dsrm-jax recommend {folder} --log events.csv -k 10 --out recs.parquet",
        ]
    return "\n".join(["```sh", *commands, "```"])


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"* {item}" for item in items)
