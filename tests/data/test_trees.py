"""Message trees: paths and rankings, the published file counted by an independent walk, and trees that are none."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import shared_data
from tunesmith.data.check import RowError
from tunesmith.data.convert import Converted, convert
from tunesmith.data.sources import ReadOptions
from tunesmith.data.trees import Tree, read_messages, read_tree
from tunesmith.data.write import Target
from tunesmith.errors import DataError
from tunesmith.records import Where

WHERE = Where("trees.jsonl", 3)


def message(name: str, *replies: dict[str, Any], rank: int | None = None, **more: Any) -> dict[str, Any]:
    """Names in capitals are the assistant's."""
    role = "assistant" if name.isupper() else "prompter"
    out = {"message_id": name, "text": f"text of {name}", "role": role, "replies": list(replies), **more}
    return out if rank is None else {**out, "rank": rank}


def tree(*replies: dict[str, Any]) -> dict[str, Any]:
    return {"message_tree_id": "p", "prompt": message("p", *replies)}


#  p -> A (rank 1) -> q -> B (rank 0), C (rank 0), D (rank 1) -> r
#    -> E (rank 0)
GOOD = tree(
    message("A", message("q", message("B", rank=0), message("C", rank=0), message("D", message("r"), rank=1)), rank=1),
    message("E", rank=0),
    message("F"),
)


def flat(node: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    own = {key: value for key, value in node.items() if key != "replies"}
    row = {**own, "parent_id": parent, "message_tree_id": "p"}
    return [row, *(line for reply in node["replies"] for line in flat(reply, node["message_id"]))]


def paths(found: Tree) -> list[tuple[str, list[int | None]]]:
    out = []
    for conversation, ranks in found.paths():
        assert conversation.row_id == 2
        out.append(("".join(turn.content[-1] for turn in conversation.messages), ranks))
    return out


def rows_to_tree(rows: list[dict[str, Any]]) -> Tree:
    return read_messages([(row, Where("m.csv", i + 2)) for i, row in enumerate(rows)], 2, Where("m.csv", 2))


@pytest.mark.parametrize("found", [read_tree(GOOD, WHERE, 2), rows_to_tree(flat(GOOD["prompt"]))], ids=["tree", "rows"])
def test_a_path_for_each_last_answer_and_a_ranking_for_each_question(found: Tree) -> None:
    assert paths(found) == [("pAqB", [1, 0]), ("pAqC", [1, 0]), ("pAqD", [1, 1]), ("pE", [0]), ("pF", [None])]
    assert [(ranking.prompt[-1].content[-1], ranking.tiers) for ranking in found.rankings()] == [
        ("p", (("E",), ("A",))),
        ("q", (("B", "C"), ("D",))),
    ]
    assert found.left_out == {"message without an answer": 1}
    assert found.num_unranked == 1


def test_no_conversation_is_the_beginning_of_another() -> None:
    branching = tree(message("A", message("q"), message("r", message("B"))))
    assert paths(read_tree(branching, WHERE, 2)) == [("pArB", [None, None])]


def test_what_was_deleted_takes_its_answers_with_it() -> None:
    found = read_tree(tree(message("A", message("q", message("B")), deleted=True), message("C")), WHERE, 2)
    assert paths(found) == [("pC", [None])]
    assert found.left_out == {"message deleted, or under a deleted one": 3}


def test_a_deep_tree_needs_no_recursion() -> None:
    rows = [
        {
            "message_tree_id": "p", "message_id": str(i), "parent_id": str(i - 1) if i else None, "text": "x",
            "role": ("prompter", "assistant")[i % 2],
        }
        for i in range(4000)
    ]  # fmt: skip
    ((conversation, ranks),) = rows_to_tree(rows).paths()
    assert (len(conversation.messages), len(ranks)) == (4000, 2000)


def other(**changes: Any) -> dict[str, Any]:
    return {**message("A"), **changes}


@pytest.mark.parametrize(
    ("row", "field", "cause"),
    [
        (tree(message("A", message("p"))), "prompt.replies[0].replies[0].message_id", "the tree is cyclic (p)"),
        (tree(message("A"), message("A")), "prompt.replies[1]", "two messages of the tree have one id (A)"),
        (tree(other(parent_id="z")), "prompt.replies[0].parent_id", "stands under another than its parent (A)"),
        (tree(message("q")), "prompt.replies[0]", "a message answers one of its own side (q)"),
        (tree(other(role="bot")), "prompt.replies[0].role", "the role is unknown ('bot')"),
        (tree(other(text=" ")), "prompt.replies[0].text", "the text is empty"),
        (tree(other(text=None)), "prompt.replies[0].text", "text is expected"),
        (tree(other(message_id=4)), "prompt.replies[0].message_id", "a message has no id"),
        (tree(other(rank=-1)), "prompt.replies[0].rank", "the rank is no whole number"),
        (tree(other(replies={})), None, None),
        (tree(other(replies={"a": 1})), "prompt.replies[0].replies", "a list of messages is expected"),
        ({"prompt": message("A")}, "prompt", "does not begin with a prompter"),
        ({"prompt": "hello"}, "prompt", "the tree's first message is expected"),
        ({"prompt": message("p", deleted=True)}, "prompt", "first message was deleted"),
    ],
)
def test_a_tree_that_is_none_is_refused(row: dict[str, Any], field: str | None, cause: str | None) -> None:
    if cause is None:
        read_tree(row, WHERE, 0)
        return
    with pytest.raises(RowError) as caught:
        read_tree(row, WHERE, 0)
    assert caught.value.place == f"trees.jsonl:3:{field}"
    assert cause in caught.value.cause


@pytest.mark.parametrize(
    ("links", "line", "cause"),
    [
        ([("p", None), ("A", "q"), ("q", "A")], 3, "the tree is cyclic (A)"),
        ([("p", "A"), ("A", "p")], 2, "the tree is cyclic (it has no first message)"),
        ([("p", None), ("A", "x")], 3, "answers one that is not in the tree (x)"),
        ([("p", None), ("A", "p"), ("A", "p")], 4, "two messages of the tree have one id (A)"),
        ([("p", None), ("q", None)], 3, "the tree has several first messages (q)"),
    ],
)
def test_links_that_make_no_tree_are_refused(links: list[tuple[str, str | None]], line: int, cause: str) -> None:
    rows = [{**message(name), "parent_id": parent, "message_tree_id": "t"} for name, parent in links]
    with pytest.raises(RowError) as caught:
        rows_to_tree(rows)
    assert caught.value.place == f"m.csv:{line}"
    assert cause in caught.value.cause


# Files ---------------------------------------------------------------------------------------------------------------


def run(source: Path, output: Path, target: Target, **options: Any) -> Converted:
    return convert(str(source), output, target, ReadOptions(**options))


def test_messages_in_any_order_make_the_same_rows_as_trees(tmp_path: Path) -> None:
    whole, apart = tmp_path / "trees.jsonl", tmp_path / "messages.jsonl"
    whole.write_text(json.dumps(GOOD) + "\n")
    rows = flat(GOOD["prompt"])
    other_tree = {**rows[0], "message_id": "x", "message_tree_id": "x"}
    apart.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:3], other_tree, *rows[3:]]))
    for target in ("messages", "preference"):
        done = run(whole, tmp_path / f"a-{target}.jsonl", target)
        same = run(apart, tmp_path / f"b-{target}.jsonl", target)
        assert (done.shape, same.shape) == ("tree", "tree-messages")
        assert Path(done.output).read_text() == Path(same.output).read_text()
        assert done.rows_written == same.rows_written == {"messages": 5, "preference": 3}[target]


def test_columns_of_trees_cannot_be_renamed(tmp_path: Path) -> None:
    source = tmp_path / "trees.jsonl"
    source.write_text(json.dumps(GOOD) + "\n")
    with pytest.raises(DataError, match="the names OpenAssistant gives them"):
        run(source, tmp_path / "out.jsonl", "messages", columns={"prompt": "prompt"})


def test_one_bad_tree_stops_all_or_is_counted(tmp_path: Path) -> None:
    source = tmp_path / "trees.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in (GOOD, tree(message("A", message("p"))))))
    with pytest.raises(DataError, match="the tree is cyclic"):
        run(source, tmp_path / "out.jsonl", "messages")
    assert list(tmp_path.iterdir()) == [source]
    done = run(source, tmp_path / "out.jsonl", "messages", drop_bad_rows=True)
    assert (done.rows_written, done.rows_dropped) == (5, {"the tree is cyclic": 1})


def test_the_published_trees_are_counted_as_an_independent_walk_does(tmp_path: Path) -> None:
    source = shared_data("oasst_trees/trees.jsonl")
    ends, pairs, unranked = 0, 0, 0

    def walk(node: dict[str, Any]) -> None:
        nonlocal ends, pairs, unranked
        replies = node["replies"]
        if node["role"] == "assistant":
            ends += not any(reply["replies"] for reply in replies)
            unranked += node.get("rank") is None
        else:
            ranks = [reply["rank"] for reply in replies if reply.get("rank") is not None]
            pairs += sum(a != b for a, b in itertools.combinations(ranks, 2))
        for reply in replies:
            walk(reply)

    for line in source.read_text(encoding="utf-8").splitlines():
        walk(json.loads(line)["prompt"])
    chats = run(source, tmp_path / "chats.jsonl", "messages")
    preferences = run(source, tmp_path / "pairs.jsonl", "preference")
    assert (chats.rows_written, preferences.rows_written) == (ends, pairs) == (388, 517)
    assert preferences.left_out == {"answer without a rank": unranked}
    pairs_written = [
        json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    assert {key for row in pairs_written for turn in row["prompt"] for key in turn} == {"role", "content"}
    assert "prompt[].lang" in chats.ignored_columns
    first = json.loads((tmp_path / "chats.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["messages"][0] == {"role": "user", "content": "Who are you?"}
    assert first["ranks"][0] == 0 and len(first["ranks"]) == len(first["messages"]) // 2
