"""The whole path on real input, small: KuaiRand-Pure, the signed KuaiRec sample, MovieLens-100K."""

import json
import os
from pathlib import Path

import pytest

from dsrm_jax.cli import main as cli
from dsrm_jax.data.download import download
from dsrm_jax.errors import InputError

SHARED = Path(os.environ.get("DSRM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def folder_of(env: str, request) -> Path:
    if env != "ml-100k":
        path = SHARED / {"kuairand": "kuairand-pure", "kuairec-signed": "kuairec"}[env]
        if not path.is_dir():
            pytest.skip(f"the sample of {env} is not there ({path}); set DSRM_SHARED_DATA to the folder that holds it")
        return path
    path = Path(request.config.cache.mkdir("ml-100k"))
    try:
        return download("ml-100k", path)
    except InputError as error:
        pytest.skip(f"MovieLens-100K cannot be had here: {error}")


@pytest.mark.parametrize(
    ("env", "words"), [("kuairand", "KuaiRand-Pure"), ("kuairec-signed", "signed KuaiRec"), ("ml-100k", "MovieLens")]
)
def test_a_tiny_run_on_real_data_goes_from_files_to_a_table(env, words, request, tmp_path: Path, capsys):
    folder = folder_of(env, request)
    run = tmp_path / "run"
    cli.main(
        [
            "train",
            "--env",
            env,
            "--data",
            str(folder),
            "--budget",
            "tiny",
            "--out",
            str(run),
            "--json",
            str(tmp_path / "n.json"),
        ]
    )
    numbers = json.loads((tmp_path / "n.json").read_text())
    out = capsys.readouterr().out
    assert words in numbers["source"]
    assert "synthetic" not in numbers["source"]
    assert words in out
    for name in ("config.json", "metrics.jsonl", "summary.json", "curves.png", "checkpoints"):
        assert (run / name).exists(), name
    results = numbers["results"]
    assert "oracle" not in results  # nobody knows the truth behind real data
    for method, row in results.items():
        assert abs(row["length"]["mean"] - row["closed_form"]) < 1.0, method
        if method != "random":
            assert row["ad"]["mean"] == 0.0
            assert row["broken"]["mean"] == 0.0
    assert results["random"]["slate_ad"]["mean"] == pytest.approx(0.6, abs=0.1)
