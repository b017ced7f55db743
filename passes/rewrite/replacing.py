"""Applying rules to a graph: where one matches, its replacement takes the place, until none fires."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Span
from ...ir.graph import Graph, Node, Value
from ...ir.pattern import Match, Rule
from ...ir.recipe import Recipe
from ..tidy.cse import node_key
from .matcher import Matcher, depth


def rewrite(
    graph: Graph,
    rules: Sequence[Rule],
    limit: int,
    places: dict[str, list[Span | None]] | None = None,
    skipped: list[str] | None = None,
    recipes: dict[str, Recipe] | None = None,
) -> dict[str, int]:
    """Apply rules until none fires; rule name -> how often it did. A node is looked at again when one near it changed.

    ``places``: is given where each rule fired. ``skipped``: is given why a replacement does not fit where its rule matched; without
    it that is raised. ``recipes``: is given what the parameters that rules bring are made of, over those of the graph.

    Raises:
        Diagnostic: E0712 after ``limit`` applications, E0713 when a replacement has another type.
    """
    by_root: dict[str, list[Matcher]] = {}
    for rule in rules:
        by_root.setdefault(rule.pattern.op, []).append(Matcher(rule))
    reach = max((depth(rule.pattern) for rule in rules), default=1)
    fired = {rule.name: 0 for rule in rules}
    queue = deque(graph.nodes())
    waiting = set(queue)
    while queue:
        node = queue.popleft()
        waiting.discard(node)
        if node.graph is not graph:
            continue
        for matcher in by_root.get(node.op.qualified, ()):
            match = matcher.match(node)
            if match is None:
                continue
            try:
                made = _replace(graph, matcher.rule, match)
            except Diagnostic as error:
                if skipped is None:
                    raise
                skipped.append(f"the rule `{matcher.rule.name}` was left out at {node.span}: {error.message}")
                continue
            fired[matcher.rule.name] += 1
            if recipes is not None:
                recipes.update(match.recipes)
            if places is not None:
                places.setdefault(matcher.rule.name, []).append(node.span)
            if sum(fired.values()) > limit:
                raise _restless(matcher.rule, fired, limit)
            for near in (*made, *_readers(made, match, reach)):
                if near not in waiting and near.op is not None:
                    waiting.add(near)
                    queue.append(near)
            break
    return fired


def _replace(graph: Graph, rule: Rule, match: Match) -> list[Node]:
    """Put the rule's replacement in the place of the match; returns the new nodes. Where that fails, the graph is as it was."""
    root = match.root
    before = root.prev
    weights = set(graph.params)
    try:
        results = list(rule.replace(Builder(graph).before(root), match))
        if [v.type for v in results] != [v.type for v in root.outputs]:
            new, old = (", ".join(str(v.type) for v in values) for values in (results, root.outputs))
            raise Diagnostic(
                "E0713", f"the rule `{rule.name}` puts {new} in the place of {old}", rule.span or root.span
            )
    except Diagnostic:
        while (last := root.prev) is not None and last is not before:
            graph.remove(last)
        for name in graph.params.keys() - weights:
            del graph.params[name]
        raise
    made: list[Node] = []
    node = before.next if before is not None else next(graph.nodes())
    while node is not None and node is not root:
        # An error in it later on names the user's line, not the rule's.
        node.span, node.scope = root.span, root.scope
        made.append(node)
        node = node.next
    results = _shared(made, results)
    for old_value, value in zip(root.outputs, results, strict=True):
        if not value.name:
            value.name = old_value.name
        old_value.replace_uses(value)
    dead = [root]
    while dead:
        node = dead.pop()
        if node.op is not None and node.graph is graph and not any(v.uses for v in node.outputs):
            before_it = [v.node for v in node.inputs if v is not None and v.node is not None]
            graph.remove(node)
            dead += before_it
    return made


def _shared(made: list[Node], results: list[Value]) -> list[Value]:
    """What a replacement writes twice, `concat(cos(x), cos(x))`, is made once; the results with it."""
    first: dict[Any, Node] = {}
    for node in list(made):
        known = first.setdefault(node_key(node), node)
        if known is not node:
            for old, new in zip(node.outputs, known.outputs, strict=True):
                old.replace_uses(new)
                results = [new if v is old else v for v in results]
            made.remove(node)
            node.graph.remove(node)  # type: ignore[union-attr]
    return results


def _readers(made: Sequence[Node], match: Match, reach: int) -> list[Node]:
    """The nodes that may now match: readers of what changed, as far away as the deepest pattern is high."""
    ring = {user for node in made for value in node.outputs for user in value.users}
    ring |= {user for value in match.tensors.values() for user in value.users}
    seen = dict.fromkeys(ring)
    for _ in range(reach - 1):
        ring = {user for node in ring for value in node.outputs for user in value.users} - set(seen)
        seen.update(dict.fromkeys(ring))
    return list(seen)


def _restless(rule: Rule, fired: dict[str, int], limit: int) -> Diagnostic:
    busy = ", ".join(f"`{name}` {count}" for name, count in fired.items() if count)
    return Diagnostic(
        "E0712",
        f"the rules did not come to rest after {limit} applications ({busy}); the last one was `{rule.name}`",
        rule.span,
        help="give the rule a `where` that its own result fails",
    )
