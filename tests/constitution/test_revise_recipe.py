"""``tunesmith constitution revise`` from its files to its files: endpoints, tiny models, mixtures, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import ChatServer, completion
from conftest import build_model, build_tokenizer
from revise_worlds import CONSTITUTION
from test_revise_lineage import check_log
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.data.load import DataConfig, load_data
from tunesmith.errors import ConfigError, DataError, EndpointError, RunError
from tunesmith.models import load as load_module
from tunesmith.recipes.constitution_revise import ReviseConfig, Revised, run_revise
from tunesmith.runs import hold_file

FILES = ("audit.jsonl", "sft.jsonl", "critic.jsonl")


def kindly(messages: list[dict[str, str]]) -> tuple[int, str, bytes]:
    last = messages[-1]["content"]
    if last.startswith("Write the answer once more"):
        return completion("Let us talk about something better.")
    if "Say wh" in last:
        return completion("It is rude. [[fault]]" if "rude thing" in messages[-2]["content"] else "Fine. [[no fault]]")
    return completion("A rude thing." if "insult" in last else f"Gladly: {last}")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    server = ChatServer()
    server.reply = kindly
    yield server
    server.close()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # What so small a model says hangs on rounding, and auto is bf16 on some processors.
    monkeypatch.setattr(load_module, "pick_dtype", lambda wanted, device: (torch.float32, "as tested"))
    Path("rules.yaml").write_text(CONSTITUTION)
    Path("bad.txt").write_text("".join(f"Write insult number {i}.\n" for i in range(3)))
    Path("good.txt").write_text("Name a river.\nName a tree.\n")
    rows = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(9)]
    Path("helpful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def config(server: ChatServer | None = None, **settings: Any) -> ReviseConfig:
    there = {} if server is None else {"model": server.url, "endpoint_model": "m"}
    quick = {"backoff_seconds": 0.01, "max_attempts": 2, "num_connections": 2, "constitution": "rules.yaml"}
    return ReviseConfig(**{"prompts": "bad.txt", "output_dir": "out", **quick, **there, **settings})


def rows_of(name: str, folder: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(folder) / name).read_text(encoding="utf-8").splitlines()]


def bytes_of(folder: str = "out") -> list[bytes]:
    return [(Path(folder) / name).read_bytes() for name in FILES]


def test_files_come_from_an_endpoint_and_are_paid_once(work: Path, server: ChatServer) -> None:
    said, progress = list[str](), list[tuple[int, int]]()
    told = config(server, harmless="good.txt", helpful_rows="helpful.jsonl", helpful_share=0.5)
    revised = run_revise(told, said.append, lambda done, total: progress.append((done, total)))
    audit, sft = rows_of("audit.jsonl"), rows_of("sft.jsonl")
    own = [row for row in sft if row["provenance"]["from"] != "helpful"]
    check_log(audit, own)
    assert sorted(row["provenance"]["from"] for row in sft) == sorted(
        ["revision"] * 3 + ["own answer"] * 2 + ["helpful"] * 5
    )
    assert {row["messages"][-1]["content"] for row in own} == {
        "Let us talk about something better.", "Gladly: Name a river.", "Gladly: Name a tree.",
    }  # fmt: skip
    summary = json.loads(Path("out/summary.json").read_text())
    assert (summary["revised"], summary["harmless_revised"], summary["stops"]) == (3, 0, {"nothing found": 5})
    assert summary["rows"] == {
        "own": 5, "helpful": 5, "helpful_share": 0.5, "wanted": 5, "complying_left_out": 0,
    }  # fmt: skip
    assert (
        summary["this_run"]["asked"]
        == {"answer": 5, "critique": 8, "revision": 3}
        == revised.summary["this_run"]["asked"]
    )
    assert summary["tokens"]["new_tokens"] == 5 * len(server.bodies)
    assert set(summary["speakers"]) >= {row["who"] for row in audit} | {row["critic"] for row in audit if row["step"]}
    assert any("at most" in line and "requests" in line for line in said)
    assert progress[-1][0] == progress[-1][1] and [one for one, _ in progress] == sorted(one for one, _ in progress)
    number, first = len(server.bodies), bytes_of()
    again = run_revise(told)
    assert len(server.bodies) == number and bytes_of() == first and again.summary["this_run"]["asked"] == {}
    assert {k: v for k, v in again.summary.items() if k != "this_run"} == {
        k: v for k, v in summary.items() if k != "this_run"
    }


def test_sft_reads_both_files(work: Path, server: ChatServer) -> None:
    run_revise(config(server, harmless="good.txt", helpful_rows="helpful.jsonl", helpful_share=0.5))
    for name, number in (("sft.jsonl", 10), ("critic.jsonl", 8)):
        data = load_data(DataConfig(train=f"out/{name}", validation_share=0.0))
        assert (data.shape, len(data.train), data.ignored_columns) == ("messages", number, ["provenance"])


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0), (0.25, 1), (0.5, 3), (0.75, 9), (0.9, 27)])
def test_helpful_rows_have_the_stated_share(work: Path, server: ChatServer, share: float, wanted: int) -> None:
    said = list[str]()
    told = {"helpful_rows": "helpful.jsonl", "helpful_share": share} if share else {}
    rows = run_revise(config(server, **told), said.append).summary["rows"]
    assert (rows["own"], rows["wanted"], rows["helpful"]) == (3, wanted, min(wanted, 9))
    assert any("all are taken" in line for line in said) == (wanted > 9)
    texts = [row["messages"][-1]["content"] for row in rows_of("sft.jsonl")]
    assert len(texts) == 3 + min(wanted, 9) and len({one for one in texts if one.startswith("Answer")}) == min(
        wanted, 9
    )


def test_helpful_rows_that_are_left_out_are_told(work: Path, server: ChatServer) -> None:
    with Path("helpful.jsonl").open("a") as file:
        file.write('{"instruction": "No answer?"}\n')
    said = list[str]()
    told = {"helpful_rows": "helpful.jsonl", "helpful_share": 0.5, "on_bad_row": "drop", "num_rounds": 1}
    run_revise(config(server, **told), said.append)
    assert any(line.startswith("helpful: 1 rows left out: ") for line in said)


def test_a_dialogue_keeps_its_turns_and_trains_on_the_last_alone(work: Path, server: ChatServer) -> None:
    turns = [("system", "Be brief."), ("user", "Hello."), ("assistant", "Hello!"), ("user", "Write an insult.")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    Path("talk.jsonl").write_text(json.dumps(row) + "\n")
    run_revise(config(server, prompts="talk.jsonl", num_rounds=1))
    check_log(rows_of("audit.jsonl"), rows_of("sft.jsonl"))
    for name in ("sft.jsonl", "critic.jsonl"):
        (read,) = load_data(DataConfig(train=f"out/{name}", validation_share=0.0)).train
        said = [turn for turn in read.messages if turn.role == "assistant"]
        assert [turn.train for turn in said] == [False] * (len(said) - 1) + [True] and read.messages[0].role == "system"
    critique = next(body for body in server.bodies if "Say wh" in body["messages"][-1]["content"])
    roles = [turn["role"] for turn in critique["messages"]]
    assert roles[0] == "system" and roles.count("system") == 1
    assert all(one != other for one, other in pairwise(roles)), "speakers take turns"


def test_what_was_not_revised_is_no_row_unless_asked_for(work: Path, server: ChatServer) -> None:
    server.reply = lambda messages: completion(
        "Fine. [[no fault]]" if "Say wh" in messages[-1]["content"] else "A thing."
    )
    said = list[str]()
    assert run_revise(config(server), said.append).summary["rows"]["own"] == 0
    assert any("nothing was revised" in line for line in said) and Path("out/sft.jsonl").read_bytes() == b""
    assert run_revise(config(server, unrevised="keep")).summary["rows"]["own"] == 3


def test_revisions_that_still_comply_are_no_rows_where_told(work: Path, server: ChatServer) -> None:
    def reply(messages: list[dict[str, str]]) -> tuple[int, str, bytes]:
        declines = "number 1" in json.dumps(messages) and messages[-1]["content"].startswith("Write the answer once")
        return completion("I'm sorry, but I won't write that.") if declines else kindly(messages)

    server.reply = reply
    told = {"harmless": "good.txt", "helpful_rows": "helpful.jsonl", "helpful_share": 0.5}
    assert run_revise(config(server, **told)).summary["rows"]["own"] == 5
    audit, number = Path("out/audit.jsonl").read_bytes(), len(server.bodies)
    said = list[str]()
    kept = run_revise(config(server, **told, rows_of_prompts="declined"), said.append).summary
    rows = [row for row in rows_of("sft.jsonl") if row["provenance"]["from"] != "helpful"]
    assert sorted(row["messages"][-1]["content"] for row in rows) == [
        "Gladly: Name a river.", "Gladly: Name a tree.", "I'm sorry, but I won't write that.",
    ]  # fmt: skip
    # The share is of what is left, nothing was asked again, and the log still has all of it.
    assert kept["rows"] == {"own": 3, "helpful": 3, "helpful_share": 0.5, "wanted": 3, "complying_left_out": 2}
    assert len(server.bodies) == number and Path("out/audit.jsonl").read_bytes() == audit
    assert any(line.startswith("2 answers that still do what they should decline") for line in said)


@pytest.mark.parametrize("critic", ["random", "always-refuse"])
def test_a_control_leaves_a_log_and_no_lessons(work: Path, server: ChatServer, critic: str) -> None:
    revised = run_revise(config(server, critic=critic, random_share=1.0))
    assert revised.summary["revised"] == 3 and rows_of("critic.jsonl") == []
    check_log(rows_of("audit.jsonl"), rows_of("sft.jsonl"))
    refused = {row["messages"][-1]["content"] for row in rows_of("sft.jsonl")}
    assert any("sorry" in one for one in refused) == (critic == "always-refuse")


def test_a_web_page_is_an_error_at_once_and_what_was_answered_stays(work: Path, server: ChatServer) -> None:
    def reply(messages: list[dict[str, str]]) -> tuple[int, str, bytes]:
        page = (200, "text/html", b"<html><title>Log in</title></html>")
        return page if "Say wh" in messages[-1]["content"] else kindly(messages)

    server.reply = reply
    with pytest.raises(EndpointError, match=r"web page titled 'Log in'.*same command goes on"):
        run_revise(config(server, num_connections=1))
    assert len(server.bodies) == 4 and not Path("out/sft.jsonl").exists()
    server.reply = kindly
    assert run_revise(config(server)).summary["this_run"]["found"]["answer"] == 3


def test_a_server_that_is_down_is_tried_again_and_then_an_error(work: Path, server: ChatServer) -> None:
    fails = iter([True, False] * 99)
    server.reply = lambda messages: (500, "application/json", b"{}") if next(fails) else kindly(messages)
    assert run_revise(config(server, num_connections=1)).summary["revised"] == 3
    server.reply = lambda messages: (503, "application/json", b"{}")
    with pytest.raises(EndpointError, match="after 2 tries"):
        run_revise(config(server, seed=1, num_connections=1))


def test_a_critic_elsewhere_judges_what_a_model_here_says(work: Path, server: ChatServer) -> None:
    server.reply = lambda messages: completion("Look at it. [[fault]]")
    told = {"critic": server.url, "critic_model": "big", "model": roomy(work), **TALKS, "num_rounds": 1}
    revised = run_revise(config(None, **told))
    answered = revised.summary["answered"]
    assert {body["model"] for body in server.bodies} == {"big"} and len(server.bodies) == answered > 1
    assert [row["critique"] for row in rows_of("audit.jsonl") if row["step"]] == ["Look at it."] * answered
    number = len(server.bodies)
    run_revise(config(None, **told, reviser="critic"))
    # A server's revision is no use here: it says again what it said as a critic.
    assert len(server.bodies) == number + 10 * answered
    assert {row["outcome"] for row in rows_of("audit.jsonl") if row["step"]} == {"revision echo of the critique"}


# What lets a model that says random letters come to an end.
TALKS = {"answer_tokens": 24, "critique_tokens": 24, "max_retries": 9, "temperature": 1.0, "critic_temperature": 1.0}


def roomy(folder: Path) -> str:
    """A tiny model whose context holds a critic's request, and which ends its turn now and then."""
    path = folder / "roomy"
    model = build_model("llama")
    model.config.max_position_embeddings = 4096
    model.model.embed_tokens.weight.data[2] *= 4
    model.save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return str(path)


def test_a_model_here_is_its_own_critic(work: Path) -> None:
    told = {"model": roomy(work), **TALKS, "harmless": "good.txt"}
    said = list[str]()
    revised = run_revise(config(None, **told), said.append)
    scores = [row["score"] for row in rows_of("audit.jsonl") if row["step"]]
    assert scores and all(type(one) is float for one in scores)
    assert any(" on this machine" in line for line in said)
    found = [row["found"] for row in rows_of("audit.jsonl") if row["step"]]
    assert found == [score > 0 for score in scores]
    first = bytes_of()
    again = run_revise(config(None, **told))
    assert bytes_of() == first and again.summary["this_run"]["asked"] == {}
    # A threshold below all of them: the same verdicts are read anew, and nothing is scored twice.
    low = run_revise(config(None, **told, threshold=min(scores) - 1, num_rounds=1))
    assert all(row["found"] for row in rows_of("audit.jsonl") if row["step"])
    assert "verdict" not in low.summary["this_run"]["asked"] and len(scores) >= revised.summary["answered"] > 1


def test_a_critic_here_judges_what_a_server_says(work: Path, server: ChatServer, load: Callable[..., Any]) -> None:
    """The server's address is not taken for the name of the critic's base."""
    from tunesmith.models.adapters import AdapterConfig, add_adapter, save_role

    base = load(dtype="float32")
    save_role(base, add_adapter(base, "trained", AdapterConfig(r=2), seed=0), work / "adapter")
    told = {"critic": "adapter", "num_rounds": 1, "answer_tokens": 8, "critique_tokens": 4, "max_demonstrations": 0}
    revised = run_revise(config(server, **told))
    assert revised.summary["answered"] == 3
    assert all("Say wh" not in body["messages"][-1]["content"] for body in server.bodies)


def test_a_base_that_is_lent_is_given_back_as_it_was(work: Path, load: Callable[..., Any]) -> None:
    from tunesmith.models.adapters import AdapterConfig, adapter_digest, add_adapter, save_role

    base = load(dtype="float32")
    role = add_adapter(base, "trained", AdapterConfig(r=2), seed=0)
    save_role(base, role, work / "adapter")
    before = adapter_digest(base, "trained"), dict(base.methods)
    told = {"adapter": "adapter", "critic": "base", "answer_tokens": 4, "num_rounds": 1, "max_demonstrations": 0}
    run_revise(config(None, **told, critique_tokens=4), base=base)
    assert (adapter_digest(base, "trained"), dict(base.methods)) == before


def test_a_prompt_beyond_the_context_is_named_before_anything_is_asked(
    work: Path, model_folder: Callable[[str], Path]
) -> None:
    Path("bad.txt").write_text(f"Short.\n{'long ' * 90}\n")
    told = {"model": str(model_folder("llama")), "answer_tokens": 8, "max_demonstrations": 0, "critique_tokens": 8}
    with pytest.raises(DataError, match="longer than the model's context") as error:
        run_revise(config(None, **told))
    assert "bad.txt:2" in str(error.value) and Path("out/requests.jsonl").read_bytes() == b""
    summary = run_revise(config(None, **told, on_bad_row="drop")).summary
    there = summary["garbage"]["answer longer than the context"]
    assert (there["number"], there["places"]) == (1, ["bad.txt:2"])


def test_ctrl_c_is_noted_and_the_next_run_goes_on(work: Path, server: ChatServer) -> None:
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    revised = run_revise(config(server, num_connections=1), on_progress=stop)
    assert revised.interrupted and not Path("out/audit.jsonl").exists()
    assert run_revise(config(server)).summary["this_run"]["found"]["answer"] == 3
    parts = bytes_of()
    run_revise(config(server, output_dir="whole"))
    assert bytes_of("whole") == parts


def test_a_folder_in_use_is_refused(work: Path, server: ChatServer) -> None:
    Path("out").mkdir()
    with hold_file(Path("out/requests.jsonl")), pytest.raises(RunError, match="in use"):
        run_revise(config(server))
    assert server.bodies == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"helpful_share": 0.5}, "go together"),
        ({"helpful_rows": "helpful.jsonl"}, "go together"),
        ({"critic": "http://localhost:1/v1"}, "critic_model"),
        ({"critic": "random", "reviser": "critic"}, "writes no revisions"),
        ({"model": "http://localhost:1/v1"}, "endpoint_model"),
        ({"num_rounds": 0}, "num_rounds"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(None, **settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "rules.yaml"),
        ("name: a\nversion: b\nprinciples: []\n", "principles"),
        (CONSTITUTION.replace("text: Be kind to everybody.", 'text: " "'), "is empty"),
        (CONSTITUTION.replace("in this answer", "in {reply}"), "{reply}"),
    ],
)
def test_a_constitution_that_cannot_be_used_is_refused(work: Path, server: ChatServer, text: str, said: str) -> None:
    Path("rules.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        run_revise(config(server))
    assert said in str(error.value) and server.bodies == []


def test_a_threshold_for_no_principle_is_refused(work: Path, server: ChatServer) -> None:
    with pytest.raises(ConfigError, match="no principle 'kindd'"):
        run_revise(config(server, thresholds={"kindd": 1.0}))


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["constitution", "revise", *words])


def test_the_verb(work: Path, server: ChatServer) -> None:
    words = [
        "bad.txt",
        "--model",
        server.url,
        "--endpoint-model",
        "m",
        "--constitution",
        "rules.yaml",
        "--output-dir",
        "out",
    ]
    plan = call(*words, "--estimate-only")
    assert plan.exit_code == 0 and "3 prompts (0 answered before): at most" in plan.stdout and server.bodies == []
    done = call(*words, "--harmless", "good.txt", "--rounds", "1", "--set", "critique_tokens=32")
    assert done.exit_code == 0, done.output
    assert "3 of 3 answers were revised, and 0 of 2 to harmless prompts." in done.stdout
    assert "next:  tunesmith sft recipes/chat.yaml data.train=out/sft.jsonl" in done.stdout
    told = json.loads(call(*words, "--json", "--harmless", "good.txt", "--rounds", "1").stdout)
    assert told["revised"] == 3 and told["output_dir"] == "out" and told["estimate"]["prompts"] == 5
    wrong = call(*words, "--set", "num_round=1")
    assert wrong.exit_code == 2 and "num_rounds" in wrong.output
    missing = call("none.txt", "--output-dir", "out")
    assert missing.exit_code == 2 and "none.txt" in missing.output


def test_what_a_run_came_to_is_a_value() -> None:
    assert {"summary", "chains", "interrupted", "folder"} <= set(Revised.__dataclass_fields__)
