"""The page that watches runs, over HTTP."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finished_run import put

from seqjax import runs
from seqjax.cli import main
from seqjax.sweeps.serving import Server
from seqjax.sweeps.watched import entry_of


@pytest.fixture
def server(make_config: Any, tmp_path: Path) -> Iterator[Server]:
    sweep = tmp_path / "runs" / "first"
    for rate in (1e-3, 1e-2):
        config = make_config("lstm", **{"optimizer.learning_rate": rate})
        runs.append_metrics(put(sweep, config, 2.0 + rate), {"step": 5, "tokens": 640, "loss": 3.0})
    runs.open_run(sweep / "<b>going", make_config("gru"))
    (sweep / "<b>going" / "result.json").write_text('{"status": ')
    with Server(tmp_path / "runs", 0) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def get(server: Server, path: str, token: str | None = None, **how: Any) -> tuple[int, str, Any]:
    token = server.token if token is None else token
    port = server.server_address[1]
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}{'&' if '?' in path else '?'}token={token}", **how)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


ODD = {
    "a loss that is no number": ("metrics.jsonl", '{"step": 2, "loss": NaN, "tokens": 64}\n'),
    "an endless step": ("metrics.jsonl", '{"step": Infinity}\n'),
    "thousands of digits": ("metrics.jsonl", '{"step": 1, "loss": ' + "1" * 5000 + "}\n"),
    "a result that is no number": ("result.json", '{"status": "finished", "steps": 6, "validation": {"loss": NaN}}'),
    "endless steps": ("result.json", '{"status": "finished", "steps": Infinity, "validation": {"loss": 2.0}}'),
    "a label that is no text": ("plan.json", '{"label": 3}'),
    "a plan that is no table": ("plan.json", "[]"),
    "a reason that is no text": ("failures.jsonl", '{"reason": 3, "given_up": false}\n'),
    "a config that is no table": ("config.json", "[]"),
}


@pytest.mark.parametrize("what", ODD)
def test_one_odd_file_does_not_hide_the_other_runs(server: Server, what: str) -> None:
    name, text = ODD[what]
    first = min((server.watched.place / "first").glob("lstm*"))
    if name == "metrics.jsonl":
        (first / "result.json").unlink()
    (first / name).write_text(text)
    status, answer, _ = get(server, "/runs")
    found = {run["name"]: run for run in json.loads(answer)["runs"]}
    assert status == 200 and len(found) == 3 and f"first/{first.name}" in found
    assert [run["state"] for name, run in found.items() if "lstm" in name and first.name not in name] == ["finished"]


def test_a_browser_that_goes_away_leaves_no_trace(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (ConnectionResetError, BrokenPipeError):
        try:
            raise error
        except error:
            server.handle_error(None, ("127.0.0.1", 1))
    assert capsys.readouterr().err == ""


def test_runs_come_whole_and_then_what_has_changed(server: Server) -> None:
    status, text, _ = get(server, "/runs")
    found = json.loads(text)
    assert status == 200 and len(found["runs"]) == 3
    states = {run["name"]: run for run in found["runs"]}
    damaged = states.pop("first/<b>going")
    assert damaged["state"] == "damaged" and "result.json" in damaged["reason"]
    assert {run["loss"] for run in states.values()} == {2.001, 2.01}
    (model,) = {run["model"] for run in states.values()}  # one curve of learning rates
    assert model and all(run["training"] == [[640, 3.0]] and run["parameters"] == 1024 for run in states.values())
    assert found["kinds"]["lstm"]["label"] == "LSTM"
    again = json.loads(get(server, f"/runs?since={found['version']}")[1])
    assert again["runs"] == [] and len(again["names"]) == 3
    folder = server.watched.place / next(iter(states))
    runs.append_metrics(folder, {"step": 10, "tokens": 1280, "validation_loss": 2.5})
    (changed,) = json.loads(get(server, f"/runs?since={found['version']}")[1])["runs"]
    assert changed["validation"] == [[1280, 2.5]]


def test_a_line_over_sizes_joins_equal_data_and_training_alone(make_config: Any, tmp_path: Path) -> None:
    shared: list[dict[str, Any]] = [{"model.d_model": 32}, {"optimizer.learning_rate": 1e-2}, {"train.seed": 1}]
    apart: list[dict[str, Any]] = [{"train.steps": 40}, {"train.context_length": 8}, {"data.tokenizer": "bpe-300"}]
    shown = [entry_of(put(tmp_path, make_config(**changes), 2.0), tmp_path) for changes in ({}, *shared, *apart)]
    terms = [run["terms"] for run in shown]
    assert len(set(terms[:4])) == 1 and len(set(terms)) == 4


def test_it_is_only_for_its_address_and_read_only(server: Server) -> None:
    status, page, headers = get(server, "/")
    assert status == 200 and "Learning curves" in page and "NONCE" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["Referrer-Policy"] == "no-referrer"
    assert server.server_address[0] == "127.0.0.1"
    for path in ("/", "/runs"):
        assert get(server, path, token="another")[0] == 403
        assert get(server, path, token="")[0] == 403
        assert get(server, path, headers={"Host": "example.org"})[0] == 403
        assert get(server, path, data=b"x")[0] == 501
    assert get(server, "/runs/../config.json")[0] == 404
    assert get(server, "/", headers={"Host": "localhost:9999"})[0] == 200  # the other end of an ssh tunnel


def test_a_port_that_is_taken_and_no_folder_are_told(server: Server, tmp_path: Path, capsys: Any) -> None:
    assert main(["watch", str(tmp_path), "--port", str(server.server_address[1])]) == 2
    assert "--port" in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "nowhere")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
