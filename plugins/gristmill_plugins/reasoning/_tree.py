"""`tree_of_thought`: several next steps at a time, each judged, the best followed, the others left or come back to.

Yao et al. 2023. `search: breadth` keeps the best `breadth` states of every level (algorithm 1); `search: depth` follows
the best step first and, where a state falls below `prune` or its leaves below `accept`, backtracks to the next best
(algorithm 2). A state is worth the model's probability of "sure" and half of "likely"; or, in breadth, the states of a
level are voted on. Invariants: the whole tree is in the result and each of its events in the trace; siblings differ;
no more than `max_states` states are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from gristmill import Candidate, Context, FunctionError, ModelHandle, ModelRef, Value, function
from gristmill_plugins.reasoning._asking import (
    Critic,
    Given,
    MaxTokens,
    Question,
    given_text,
    lettered,
    together,
    user,
    write,
)
from gristmill_plugins.reasoning._chains import MANY, AnswerKind, Options
from gristmill_plugins.reasoning._extract import Kind, extract
from gristmill_plugins.reasoning._prompts import Prompt, Replaced, load

Status = Literal["open", "pruned", "expanded", "leaf", "answer"]
WORTH = {"sure": 1.0, "likely": 0.5, "impossible": 0.0}
"""What the words of a judgement count; the paper's 20, 1 and 0.001 are for sums of samples, these for probabilities."""
MOST_VOTED = 26


class State(Value):
    """One node of the tree: a thought behind those of its parents."""

    text_field = "thought"

    id: int
    parent: int | None
    depth: int
    """Thoughts up to here; the root, which is the question alone, has none."""
    thought: str
    score: float
    """From 0 to 1."""
    status: Status
    """open: judged, not followed; pruned: not worth it; expanded; leaf: at full depth; answer: answered from."""


class Tree(Candidate):
    """The answer, the thoughts that led to it, and every state that was looked at."""

    score: float
    """Of the state that was answered from."""
    reasoning: str
    path: tuple[str, ...]
    states: tuple[State, ...]
    """In the order in which they were made; the root is the first."""
    n_backtracks: int
    """How often the search gave a branch up and went back to an earlier state."""
    prompt: str = ""


class TreeFunctions:
    """Searches among thoughts."""

    @function
    async def tree_of_thought(
        self,
        question: Question,
        run: Context,
        *,
        model: ModelRef,
        context: Given = None,
        search: Annotated[Literal["breadth", "depth"], "Level by level, or the best branch first."] = "breadth",
        breadth: Annotated[int, Field(ge=1, le=50, description="States kept of each level, in breadth.")] = 2,
        depth: Annotated[int, Field(ge=1, le=20, description="Thoughts on the way to an answer.")] = 2,
        branches: Annotated[int, Field(ge=1, le=50, description="Thoughts drawn from a state, in one request.")] = 3,
        score: Annotated[Literal["value", "vote"], "Judge each state, or let states be voted on."] = "value",
        prune: Annotated[float, Field(ge=0, le=1, description="A state of a lower score is not followed.")] = 0.0,
        accept: Annotated[float, Field(ge=0, le=1, description="In depth, a leaf of this score ends it.")] = 0.7,
        max_states: Annotated[int, Field(ge=1, le=10_000, description="The most states that are judged.")] = 60,
        critic: Critic = None,
        options: Options = None,
        kind: AnswerKind = "auto",
        temperature: Annotated[float, Field(gt=0, le=100, description="For drawing thoughts.")] = MANY,
        max_tokens: MaxTokens = 60,
        answer_tokens: Annotated[int, Field(ge=1, le=100_000, description="The most tokens of the answer.")] = 160,
        prompts: Replaced = None,
    ) -> Tree:
        """Search a tree of thoughts, keeping or following the best, and answer from the best state."""
        if score == "vote" and search == "depth":
            raise FunctionError("a vote compares the states of a level, and depth has no levels", hint="score: value")
        prompt = load("tree_of_thought", prompts)
        plan = _Plan(breadth, depth, branches, score, prune, accept, max_states, temperature, max_tokens)
        asked = prompt.fill("ask", question=question)
        if options:
            asked += f"\nOptions: {lettered(options)}"
        whole = "\n\n".join(filter(None, (given_text(prompt, context), asked)))
        tree = _Search(run, prompt, whole, plan, run.model(model), run.model(critic or model))
        await (tree.broad() if search == "breadth" else tree.deep())
        return await tree.answered(kind, options, answer_tokens)


@dataclass(frozen=True, slots=True)
class _Plan:
    breadth: int
    depth: int
    branches: int
    score: Literal["value", "vote"]
    prune: float
    accept: float
    max_states: int
    temperature: float
    max_tokens: int


@dataclass(slots=True)
class _Node:
    id: int
    parent: _Node | None
    thought: str
    score: float = 0.0
    status: Status = "open"
    path: tuple[str, ...] = field(default=())

    @property
    def depth(self) -> int:
        return len(self.path)

    def state(self) -> State:
        return State(
            id=self.id, parent=self.parent.id if self.parent else None, depth=self.depth, thought=self.thought,
            score=self.score, status=self.status,
        )  # fmt: skip


class _Search:
    """One tree while it grows."""

    def __init__(
        self, run: Context, prompt: Prompt, question: str, plan: _Plan, model: ModelHandle, critic: ModelHandle
    ) -> None:
        self.run = run
        self.prompt = prompt
        self.question = question
        self.plan = plan
        self.model = model
        self.critic = critic
        self.nodes = [_Node(0, None, "")]
        self.n_backtracks = 0

    @property
    def is_full(self) -> bool:
        return len(self.nodes) > self.plan.max_states

    # -- the two searches ----------------------------------------------------------------------------------------------

    async def broad(self) -> None:
        """Grow level by level, and keep the best of each."""
        level = [self.nodes[0]]
        for _ in range(self.plan.depth):
            children = [child for family in await together(map(self._thoughts, level)) for child in family]
            children = self._add(children)
            await self._judge(children)
            for node in level:
                node.status = "expanded"
            good = sorted((one for one in children if one.score >= self.plan.prune), key=lambda one: -one.score)
            kept = good[: self.plan.breadth]
            for child in children:
                if child not in kept:
                    self._prune(child, "others are better" if child in good else f"below {self.plan.prune:g}")
            if not kept:
                break
            level = kept
        for node in level:
            node.status = "leaf"

    async def deep(self) -> None:
        """Follow the best branch first; give it up where it falls too low, and go back to the next best."""
        await self._follow(self.nodes[0])

    async def _follow(self, node: _Node) -> bool:
        """Search below a state; return whether a leaf was accepted."""
        if node.depth == self.plan.depth:
            node.status = "leaf"
            return node.score >= self.plan.accept
        if self.is_full:
            return True
        children = self._add(await self._thoughts(node))
        await self._judge(children)
        node.status = "expanded"
        for child in sorted(children, key=lambda one: -one.score):
            if child.score < self.plan.prune:
                self._prune(child, f"below {self.plan.prune:g}")
                continue
            if await self._follow(child):
                return True
            self.n_backtracks += 1
            self.run.note(f"backtrack from state {child.id} to {node.id}")
        return False

    # -- states --------------------------------------------------------------------------------------------------------

    async def _thoughts(self, node: _Node) -> list[_Node]:
        """Return the different thoughts that one request draws from a state, not yet part of the tree."""
        so_far = self.prompt.fill("so_far", path=_listed(node.path)) if node.path else None
        drawn = await write(
            self.run, self.model, [user(self.question, so_far, self.prompt.fill("propose"))],
            max_tokens=self.plan.max_tokens, samples=self.plan.branches, temperature=self.plan.temperature,
            stop=["\n\n"],
        )  # fmt: skip
        texts = dict.fromkeys(" ".join(one.text.split()) for one in drawn)
        return [_Node(-1, node, text, path=(*node.path, text)) for text in texts if text and text not in node.path]

    def _add(self, nodes: Sequence[_Node]) -> list[_Node]:
        """Make states part of the tree, as far as there is room."""
        room = max(0, self.plan.max_states + 1 - len(self.nodes))
        added = list(nodes[:room])
        for node in added:
            node.id = len(self.nodes)
            self.nodes.append(node)
        if len(added) < len(nodes):
            self.run.note(f"{len(nodes) - len(added)} thoughts are left out: max_states is {self.plan.max_states}")
        return added

    async def _judge(self, nodes: Sequence[_Node]) -> None:
        if self.plan.score == "vote" and len(nodes) > 1:
            scores = await self._voted(nodes)
        else:
            scores = await together(map(self._valued, nodes))
        for node, score in zip(nodes, scores, strict=True):
            node.score = score
            below = node.parent.id if node.parent else 0
            self.run.note(f"state {node.id} below {below}: {score:.2f}: {node.thought}")

    async def _valued(self, node: _Node) -> float:
        asked = self.prompt.fill("value", question=self.question, path=_listed(node.path))
        chosen = await self.critic.choose([user(asked)], tuple(WORTH))
        return sum(WORTH[word] * share for word, share in chosen.probabilities.items())

    async def _voted(self, nodes: Sequence[_Node]) -> list[float]:
        if len(nodes) > MOST_VOTED:
            raise FunctionError(
                f"a vote takes {MOST_VOTED} states at once, these are {len(nodes)}", hint="lower breadth or branches"
            )
        numbers = [str(n) for n in range(1, len(nodes) + 1)]
        ways = "\n".join(f"{n}. {' '.join(node.path)}" for n, node in zip(numbers, nodes, strict=True))
        asked = self.prompt.fill("vote", question=self.question, paths=ways)
        chosen = await self.critic.choose([user(asked)], numbers)
        return [chosen.probabilities[n] for n in numbers]

    def _prune(self, node: _Node, why: str) -> None:
        node.status = "pruned"
        self.run.note(f"prune state {node.id} ({node.score:.2f}): {why}")

    # -- the answer ----------------------------------------------------------------------------------------------------

    async def answered(self, kind: Kind, options: Sequence[str] | None, max_tokens: int) -> Tree:
        """Answer from the best leaf, or else from the best of the deepest states."""
        leaves = [node for node in self.nodes if node.status == "leaf"]
        best = max(leaves or self.nodes, key=lambda node: (node.depth, node.score, -node.id))
        best.status = "answer"
        asked = self.prompt.fill("answer", question=self.question, path=_listed(best.path))
        written = (await write(self.run, self.model, [user(asked)], max_tokens=max_tokens))[0].text.strip()
        found = extract(written, kind, options)
        if not found.found:
            found = extract(f"The answer is {written}", kind, options)
        self.run.note(f"answer from state {best.id} ({best.score:.2f}): {written}")
        return Tree(
            text=found.text if found.found else written,
            found=found.found,
            score=best.score,
            reasoning="\n".join(best.path),
            path=best.path,
            states=tuple(node.state() for node in self.nodes),
            n_backtracks=self.n_backtracks,
            prompt=self.prompt.label,
        )


def _listed(path: Sequence[str]) -> str:
    return "\n".join(f"{n}. {thought}" for n, thought in enumerate(path, 1))
