"""What `dsrm-jax COMMAND --help` prints: one screen of 80 columns with what people use; `--help-all` lists every option."""

QUIET = """\
  --quiet               print nothing but errors"""
RUNS = f"""\
  --json FILE           write the numbers as JSON
{QUIET}"""

HELP = {
    "train": f"""\
usage: dsrm-jax train [OPTIONS]

Train a method, compare it with the yardsticks, write a run directory.

  --env NAME            data: kuairec, kuairand, ml-100k, coat, log (your own)
  --data PATH           its folder; of --env log a file, a folder or a pattern
  --data.click-column NAME   of your own log, beside user-, item-, time-column
  --world NAME          how users react: paper, mood, satisfaction, ...
  --method NAME         a method of README's table; by default the paper's own
  --budget SIZE         tiny (seconds), quick, default (minutes), paper
  --seeds NUMBER ...    a policy each, trained together
  --max-len STEPS       patience of a user who arrives
  --purifier.kind NAME  guided, conditional, ...; identity: observed states
  --out FOLDER          run directory; by default below runs/
  --config FILE         TOML file of any options; those given here win
{RUNS}
--help-all lists every option with its unit and default. Examples:
  dsrm-jax train --env kuairec --budget tiny
  dsrm-jax train --env log --data clicks.csv --seeds 11 15 19 --out runs/mine""",
    "resume": f"""\
usage: dsrm-jax resume RUN [OPTIONS]

Continue an interrupted run from its newest checkpoint, bit for bit.

  RUN                   run directory that training wrote
  --from-step N         go back to the checkpoint of step N first
{RUNS}
--help-all lists every option. Example:
  dsrm-jax resume runs/mine""",
    "evaluate": f"""\
usage: dsrm-jax evaluate RUN [OPTIONS]

Evaluate the newest checkpoint of a run again; renew summary, model card.

  RUN                   run directory that training wrote
{RUNS}
--help-all lists every option. Example:
  dsrm-jax evaluate runs/mine --json numbers.json""",
    "data": f"""\
usage: dsrm-jax data [OPTIONS]

Download (if need be), check, parse and describe a data set; nothing is trained.

  --env NAME            data: kuairec, kuairand, ml-100k, coat, log (your own)
  --data PATH           its folder; of --env log a file, a folder or a pattern
  --data.user-column NAME    and item-, click-, time-, category-, random-column
  --data.click-from NUMBER   feedback from which on a row is a click
  --data.time-format TEXT    s, ms, us, ns, order, or such as '%d/%m/%Y %H:%M'
{RUNS}
--help-all lists every option with its unit and default. Examples:
  dsrm-jax data --env kuairec
  dsrm-jax data --env log --data 'logs/*.csv' --data.time-column ts""",
    "sweep": f"""\
usage: dsrm-jax sweep FILE ... [OPTIONS]

Run a grid of configurations over worker processes, resumably; print its tables.

  FILE ...              TOML files: budget, validate, [grid], any sections
  --grid FIELD=A,B,...  values to vary beside the files' grids; may be repeated
  --budget SIZE         tiny, quick, default or paper instead of the files'
  --workers NUMBER      processes, one core each; by default one per core
  --out FOLDER          what is finished in it is not run again
{RUNS}
--help-all lists every option. Examples:
  dsrm-jax sweep experiments/baselines.toml --budget tiny
  dsrm-jax sweep plan.toml --grid training.steps=800,3200""",
    "export": f"""\
usage: dsrm-jax export RUN [OPTIONS]

Write a run's policy to one file that recommends without the training code.

  RUN                   run directory that training wrote
  --out FILE            by default policy.dsrm in the run directory
  --seed NUMBER         which of the run's seeds; by default the first
{RUNS}
--help-all lists every option. Example:
  dsrm-jax export runs/mine --out policy.dsrm""",
    "recommend": f"""\
usage: dsrm-jax recommend RUN-OR-EXPORT --log FILE --out FILE [OPTIONS]

Recommend items to every user of a log, in memory that does not grow with them.

  RUN-OR-EXPORT         run directory, or file that export wrote
  --log FILE            what the users saw and clicked, as of env=log
  --out FILE            .parquet, .csv (a row an item), .jsonl (a line a user)
  -k NUMBER             items a user; by default 10
  --users FILE          users to recommend to; by default all of the log
  --exclude WHAT        seen (default), nothing, or a file of items
  --allowed FILE        items that may be recommended; by default all
  --scores              write how likely a click on each item is
  --user-column NAME    and item-, click-, time-column; by default as trained
{RUNS}
--help-all lists every option. Examples:
  dsrm-jax recommend runs/mine --log events.csv --out recs.parquet
  dsrm-jax recommend policy.dsrm --log events.csv -k 20 --scores --out recs.csv""",
    "completion": f"""\
usage: dsrm-jax completion bash|zsh|fish

Print what completes commands, options and their values in a shell.

{QUIET}

Examples:
  dsrm-jax completion bash > ~/.local/share/bash-completion/completions/dsrm-jax
  dsrm-jax completion zsh > "${{fpath[1]}}/_dsrm-jax"
  dsrm-jax completion fish > ~/.config/fish/completions/dsrm-jax.fish""",
}
