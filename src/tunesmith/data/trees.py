"""OpenAssistant message trees (arXiv:2304.07327): one tree a row, or one message a row -> paths and rankings.

A tree branches where several people or models answered one message. ``rank`` 0 is the best among sibling answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.check import RowError, shown
from tunesmith.data.parse import json_type
from tunesmith.data.shape import filled_text
from tunesmith.records import Conversation, Message, Ranking, Role, Where

_ROLES: dict[str, Role] = {"prompter": "user", "assistant": "assistant"}
TREE_KEYS = frozenset({"message_tree_id", "prompt"})
MESSAGE_KEYS = frozenset({"message_tree_id", "message_id", "parent_id", "text", "role", "rank", "deleted", "replies"})


@dataclass(frozen=True, slots=True)
class Node:
    """One message of a tree; ``parent`` is the id of the message it answers, None at the root."""

    id: str
    parent: str | None
    message: Message
    rank: int | None
    deleted: bool
    where: Where


@dataclass(slots=True)
class Tree:
    """The checked messages of one tree: by id, with the ids of the answers to each in the file's order."""

    nodes: dict[str, Node]
    replies: dict[str, list[str]]
    root: str
    row_id: int
    where: Where
    left_out: dict[str, int] = field(default_factory=dict)
    """Cause -> number of messages that no path holds."""
    num_unranked: int = 0
    """Answers without a rank, which no ranking holds."""

    def paths(self) -> Iterator[tuple[Conversation, list[int | None]]]:
        """One conversation for each last answer, in the file's order, with the ranks of its assistant turns."""
        for node in self._walk():
            if node.message.role == "assistant" and not self._is_answered_later(node):
                path = self._path(node)
                ranks = [step.rank for step in path if step.message.role == "assistant"]
                messages = tuple(step.message for step in path)
                yield Conversation(messages=messages, row_id=self.row_id, where=node.where), ranks

    def rankings(self) -> Iterator[Ranking]:
        """One ranking for each message with two or more ranked answers; equal ranks are ties."""
        for node in self._walk():
            ranked = [self.nodes[i] for i in self.replies[node.id] if self.nodes[i].rank is not None]
            if node.message.role != "user" or len(ranked) < 2:
                continue
            tiers: dict[int, list[str]] = {}
            for reply in ranked:
                tiers.setdefault(reply.rank or 0, []).append(reply.id)
            yield Ranking(
                prompt=tuple(step.message for step in self._path(node)),
                candidates={reply.id: (reply.message,) for reply in ranked},
                tiers=tuple(tuple(tiers[rank]) for rank in sorted(tiers)),
                row_id=self.row_id,
                where=node.where,
            )

    def _walk(self) -> Iterator[Node]:
        """Messages from the root down, those of one branch together; no recursion, so depth cannot overflow."""
        stack = [self.root]
        while stack:
            node = self.nodes[stack.pop()]
            yield node
            stack += reversed(self.replies[node.id])

    def _is_answered_later(self, node: Node) -> bool:
        return any(self.replies[reply] for reply in self.replies[node.id])

    def _path(self, node: Node) -> list[Node]:
        steps = [node]
        while steps[-1].parent is not None:
            steps.append(self.nodes[steps[-1].parent])
        return steps[::-1]


def read_tree(row: Mapping[str, Any], where: Where, row_id: int) -> Tree:
    """The tree of a row that holds it whole. Raises RowError for a tree that is none."""
    if not isinstance(row.get("prompt"), dict):
        fix = (
            'Write {"message_tree_id": ..., "prompt": {"message_id": ..., "role": ..., "text": ..., "replies": [...]}}.'
        )
        raise RowError(where.at("prompt"), "the tree's first message is expected.", fix)
    nodes = []
    stack: list[tuple[Any, str, str | None, tuple[str, ...]]] = [(row["prompt"], "prompt", None, ())]
    while stack:
        value, place, parent, above = stack.pop()
        node = _node(value, where.at(place), parent, is_nested=True)
        if node.id in above:
            fix = "A message cannot come before itself; write the tree anew."
            raise RowError(where.at(f"{place}.message_id"), "the tree is cyclic.", fix, detail=shown(node.id))
        nodes.append(node)
        replies = value.get("replies") or []
        if not isinstance(replies, list):
            raise RowError(where.at(f"{place}.replies"), "a list of messages is expected.", "Write [] for none.")
        inner = [(reply, f"{place}.replies[{i}]", node.id, (*above, node.id)) for i, reply in enumerate(replies)]
        stack += reversed(inner)
    return _checked(nodes, row_id, where)


def unread_keys(row: Mapping[str, Any]) -> set[str]:
    """Keys of a whole tree's row and, as ``prompt[].name``, of its messages that no conversation holds."""
    out, stack = set(row) - TREE_KEYS, [row.get("prompt")]
    while stack:
        message = stack.pop()
        if isinstance(message, dict):
            out |= {f"prompt[].{key}" for key in message if key not in MESSAGE_KEYS}
            stack += message.get("replies") or []
    return out


def read_messages(rows: Iterable[tuple[Mapping[str, Any], Where]], row_id: int, where: Where) -> Tree:
    """The tree of rows that hold a message each. Raises RowError for messages that make none."""
    return _checked([_node(row, place, None, is_nested=False) for row, place in rows], row_id, where)


def _node(value: Any, where: Where, parent: str | None, *, is_nested: bool) -> Node:
    def at(name: str) -> Where:
        return where.at(f"{where.field}.{name}" if where.field else name)

    if not isinstance(value, dict):
        raise RowError(where, "a message must be an object.", "Write it anew.", detail=f"it is {json_type(value)}")
    identity, role, stated = value.get("message_id"), value.get("role"), value.get("parent_id") or None
    if not isinstance(identity, str) or not identity:
        raise RowError(at("message_id"), "a message has no id.", "Give every message an id of its own.")
    if role not in _ROLES:
        raise RowError(at("role"), "the role is unknown.", "Use prompter, assistant.", detail=f"'{shown(str(role))}'")
    if is_nested and stated not in (None, parent):
        fix = "Put the message under the one it answers."
        raise RowError(at("parent_id"), "a message stands under another than its parent.", fix, detail=identity)
    rank = value.get("rank")
    # Tables write a whole number as 1.0 where others in the column are null.
    if isinstance(rank, float) and rank.is_integer():
        rank = int(rank)
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 0):
        raise RowError(at("rank"), "the rank is no whole number from 0.", "Write 0 for the best answer, or null.")
    text = filled_text(value.get("text"), at("text"))
    message = Message(role=_ROLES[role], content=text)
    deleted = value.get("deleted") is True
    return Node(identity, parent if is_nested else stated, message, rank, deleted, where)


def _checked(nodes: list[Node], row_id: int, where: Where) -> Tree:
    """A tree of these messages, without those that were deleted and what was said under them."""
    by_id: dict[str, Node] = {}
    for node in nodes:
        if node.id in by_id:
            raise RowError(node.where, "two messages of the tree have one id.", "Rename one.", detail=shown(node.id))
        by_id[node.id] = node
    replies: dict[str, list[str]] = {name: [] for name in by_id}
    for node in nodes:
        if node.parent is None:
            continue
        if node.parent not in by_id:
            fix = "Add the message it answers, or remove it."
            raise RowError(node.where, "a message answers one that is not in the tree.", fix, detail=shown(node.parent))
        if by_id[node.parent].message.role == node.message.role:
            fix = "Let a prompter and the assistant take turns."
            raise RowError(node.where, "a message answers one of its own side.", fix, detail=shown(node.id))
        replies[node.parent].append(node.id)
    roots = [node for node in nodes if node.parent is None]
    if len(roots) > 1:
        fix = "Give each tree its own message_tree_id."
        raise RowError(roots[1].where, "the tree has several first messages.", fix, detail=shown(roots[1].id))
    if not roots:
        fix = "One message must answer none; write its parent_id as null."
        raise RowError(where, "the tree is cyclic.", fix, detail="it has no first message")
    if roots[0].message.role != "user":
        raise RowError(roots[0].where, "the tree does not begin with a prompter.", "Write the tree anew.")
    return _pruned(by_id, replies, roots[0].id, row_id, where)


def _pruned(nodes: dict[str, Node], replies: dict[str, list[str]], root: str, row_id: int, where: Where) -> Tree:
    reached, kept, stack = set[str](), set[str](), [(root, True)]
    while stack:
        name, is_kept = stack.pop()
        is_kept = is_kept and not nodes[name].deleted
        reached.add(name)
        if is_kept:
            kept.add(name)
        stack += [(reply, is_kept) for reply in replies[name]]
    if len(reached) < len(nodes):
        lost = next(name for name in nodes if name not in reached)
        fix = "A message cannot come before itself; write the tree anew."
        raise RowError(nodes[lost].where, "the tree is cyclic.", fix, detail=shown(lost))
    if root not in kept:
        raise RowError(nodes[root].where, "the tree's first message was deleted.", "Remove the tree.")
    tree = Tree(
        {name: node for name, node in nodes.items() if name in kept},
        {name: [reply for reply in replies[name] if reply in kept] for name in kept},
        root,
        row_id,
        where,
    )
    unanswered = sum(node.message.role == "user" and not tree.replies[name] for name, node in tree.nodes.items())
    counts = {
        "message deleted, or under a deleted one": len(nodes) - len(kept),
        "message without an answer": unanswered,
    }
    tree.num_unranked = sum(node.message.role == "assistant" and node.rank is None for node in tree.nodes.values())
    tree.left_out = {cause: count for cause, count in counts.items() if count}
    return tree
