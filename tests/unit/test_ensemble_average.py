"""Writing together: each token comes from the members' combined prediction, and all continue the same text."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill import (
    BudgetError,
    Capability,
    Combine,
    Completion,
    GenerateRequest,
    Kernel,
    Model,
    OnDelta,
    RunError,
    Session,
    TokenLogprob,
    Usage,
    model_provider,
)
from gristmill_plugins.ensemble._average import combine_rows, pick
from gristmill_plugins.ensemble._tokens import Phrase, elect

PIECES = [" the", " old", " mill", " grinds", " rye", ".", "\n", "s", "<end>"]
END = len(PIECES) - 1


class TableModel(Model):
    """A tiny language model: the next token's probabilities are a fixed function of its name and all text before."""

    def __init__(
        self, name: str, vocabulary: str = "tokens", capabilities: Sequence[Capability] = ("sessions",)
    ) -> None:
        self._name = name
        self._vocabulary = vocabulary
        self.capabilities = frozenset(capabilities)
        self.open: list[TableSession] = []
        self.requests: list[GenerateRequest] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def fingerprint(self) -> str:
        return f"table:{self._name}"

    @property
    def vocabulary_digest(self) -> str:
        return self._vocabulary

    def logprobs(self, prompt: str, tokens: Sequence[int]) -> np.ndarray:
        """Return `(n_vocabulary,) float32`."""
        seed = hashlib.sha256(f"{self._name}|{prompt}|{tokens}".encode()).digest()
        logits = np.random.default_rng(list(seed)).normal(0, 2, len(PIECES))
        logits[END] += 0.3 * len(tokens) - 2  # texts end at some time
        row: np.ndarray = (logits - np.log(np.exp(logits).sum())).astype(np.float32)
        return row

    async def open_session(self, request: GenerateRequest) -> Session:
        session = TableSession(self, request.messages[-1].content)
        self.open.append(session)
        return session

    async def generate(self, request: GenerateRequest, on_delta: OnDelta | None = None) -> list[Completion]:
        self.requests.append(request)
        logprobs = tuple(TokenLogprob(token=token, logprob=-0.1) for token in ("to", "gether"))
        usage = Usage(prompt_tokens=11 + 4 * len(request.members), completion_tokens=2, calls=1)
        return [Completion(text="together", logprobs=logprobs, usage=usage)]

    async def count_tokens(self, text: str) -> int:
        return len(text.split())


class TableSession:
    """One text in the making."""

    ends = frozenset({END})

    def __init__(self, model: TableModel, prompt: str) -> None:
        self.model, self.prompt = model, prompt
        self.prompt_tokens = len(prompt.split())
        self.tokens: list[int] = []
        self.closed = False

    async def next_logprobs(self) -> np.ndarray:
        return self.model.logprobs(self.prompt, self.tokens)

    async def accept(self, token: int) -> str:
        self.tokens.append(token)
        return PIECES[token]

    async def close(self) -> None:
        self.closed = True


class TablePlugin:
    """Makes tiny models; `models` holds them by name."""

    def __init__(self) -> None:
        self.models: dict[str, TableModel] = {}

    @model_provider
    def table(
        self,
        *,
        name: Annotated[str, "What the model is called."] = "t",
        vocabulary: Annotated[str, "Equal names are equal vocabularies."] = "tokens",
        can: Annotated[list[str] | None, "Its capabilities."] = None,
        adapters: Annotated[dict[str, str] | None, "Adapters by name."] = None,
    ) -> Model:
        """A tiny model."""
        self.models[name] = TableModel(name, vocabulary, can or ["sessions"])  # type: ignore[arg-type]
        return self.models[name]


class Workbench:
    """Runs a step over tiny models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plugin = TablePlugin()
        self.kernel = Kernel(plugins={"table": self.plugin}, cache=False)

    def run(self, function: str, arguments: str, models: str = "{a: {use: table, name: a}, b: {use: table, name: b}}",
            head: str = "") -> Any:  # fmt: skip
        path = self.folder / "r.yaml"
        path.write_text(
            f"version: 1\n{head}models: {models}\nsteps:\n  s: {{use: {function}, with: {{{arguments}}}}}\n"
        )
        return self.kernel.recipe(path).run()

    def told(self, function: str, arguments: str, **more: str) -> str:
        with pytest.raises(RunError) as caught:
            self.run(function, arguments, **more)
        return str(caught.value)


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Workbench]:
    made = Workbench(tmp_path)
    with made.kernel:
        yield made


def mean_row(models: Sequence[tuple[str, str, float]], tokens: Sequence[int], how: Combine) -> np.ndarray:
    """The combined probabilities by their definition, one token at a time."""
    total = sum(weight for *_, weight in models)
    rows = [(np.exp(TableModel(n).logprobs(p, tokens).astype(float)), w / total) for n, p, w in models]
    if how == "geometric":
        product = [np.prod([row[i] ** share for row, share in rows]) for i in range(len(PIECES))]
        return np.array([value / sum(product) for value in product])
    return np.array([sum(share * row[i] for row, share in rows) for i in range(len(PIECES))])


def greedy(models: Sequence[tuple[str, str, float]], how: Combine, most: int) -> str:
    tokens: list[int] = []
    while len(tokens) < most and (token := int(mean_row(models, tokens, how).argmax())) != END:
        tokens.append(token)
    return "".join(PIECES[token] for token in tokens)


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
@pytest.mark.parametrize("prompt", ["one", "two", "three", "four"])
def test_each_token_is_the_likeliest_of_the_members_mean(tables: Workbench, how: Combine, prompt: str) -> None:
    members = (
        f"members: {{a: {{model: a, weight: 2}}, b: {{model: b}}}}, prompt: {prompt}, combine: {how}, max_tokens: 12"
    )
    written = tables.run("ensemble.average", members).output
    assert written.text == greedy([("a", prompt, 2.0), ("b", prompt, 1.0)], how, 12)
    assert written.weights == {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)}


@pytest.mark.parametrize("function", ["average", "vote_tokens"])
def test_one_member_writes_its_own_greedy_text(tables: Workbench, function: str) -> None:
    written = tables.run(f"ensemble.{function}", "members: {x: {model: a, prompt: hi}}, max_tokens: 9").output
    assert written.text == greedy([("a", "hi", 1.0)], "arithmetic", 9)
    assert written.finish_reason == ("length" if written.n_tokens == 9 else "stop")


def test_neither_order_nor_names_of_members_change_the_text(tables: Workbench) -> None:
    one = "members: {x: {model: a, prompt: p, weight: 3}, y: {model: b, prompt: q}}, max_tokens: 20"
    other = "members: {n: {model: b, prompt: q}, m: {model: a, prompt: p, weight: 3}}, max_tokens: 20"
    assert tables.run("ensemble.average", one).output.text == tables.run("ensemble.average", other).output.text


def test_every_session_is_closed_and_every_members_tokens_are_told(tables: Workbench) -> None:
    result = tables.run(
        "ensemble.average", "members: {x: {model: a, prompt: p q r}, y: {model: b, prompt: s}}, max_tokens: 5"
    )
    written = result.output
    for session in (tables.plugin.models["a"].open[0], tables.plugin.models["b"].open[0]):
        assert session.closed
        assert len(session.tokens) == written.n_tokens
    assert (written.usage["x"].prompt_tokens, written.usage["y"].prompt_tokens) == (3, 1)
    assert written.usage["x"].completion_tokens == written.usage["y"].completion_tokens == written.n_tokens
    assert result.usage.completion_tokens == 2 * written.n_tokens


def test_sessions_are_closed_when_the_budget_ends_the_text(tables: Workbench) -> None:
    with pytest.raises(RunError) as caught:
        tables.run(
            "ensemble.average", "members: {x: {model: a}, y: {model: b}}, prompt: p", head="budget: {tokens: 4}\n"
        )
    assert isinstance(next(iter(caught.value.failures.values())), BudgetError)
    assert all(session.closed for model in tables.plugin.models.values() for session in model.open)


def test_prompts_of_one_model_go_into_one_request(tables: Workbench) -> None:
    models = "{a: {use: table, name: a, can: [members], adapters: {t: t.gguf}}}"
    members = "members: {x: {prompt: p q r}, y: {prompt: s, adapters: {t: 0.5}, weight: 2}}"
    result = tables.run("ensemble.average", f"{members}, combine: geometric", models=models)
    (request,) = tables.plugin.models["a"].requests
    assert request.combine == "geometric"
    assert [(m.messages[0].content, m.adapters, m.weight) for m in request.members] == [
        ("p q r", {}, 1.0), ("s", {"t": 0.5}, 2.0),
    ]  # fmt: skip
    usage = result.output.usage
    assert (result.output.text, result.output.n_tokens, result.usage.calls) == ("together", 2, 1)
    assert usage["x"].prompt_tokens + usage["y"].prompt_tokens == result.usage.prompt_tokens == 19
    assert usage["x"].prompt_tokens - usage["y"].prompt_tokens == 3
    assert usage["y"].completion_tokens == 2


def test_different_vocabularies_are_an_error_that_says_what_works(tables: Workbench) -> None:
    models = "{a: {use: table, name: a}, b: {use: table, name: b, vocabulary: other}}"
    for function in ("average", "vote_tokens"):
        told = tables.told(f"ensemble.{function}", "members: {x: {model: a}, y: {model: b}}, prompt: p", models=models)
        assert "members 'x' and 'y' have different vocabularies" in told
        assert "ensemble.choose" in told
        assert "ensemble.vote" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("members: {}", "an ensemble needs members"),
        ("members: {x: {recipe: quickstart}}", "member 'x' is a recipe, and its tokens cannot be averaged"),
        ("members: {x: {prompt: p}}", "member 'x' has no model"),
        ("members: {x: {model: a, prompt: p, weight: 0}}", "the members' weights are all zero"),
        ("members: {x: {model: a, prompt: p, adapters: {t: 1}}}", "'t' is no adapter of model 'a'"),
    ],
)
def test_members_that_cannot_write_are_refused(tables: Workbench, arguments: str, message: str) -> None:
    assert message in tables.told("ensemble.average", arguments)


def test_a_model_that_cannot_be_stepped_is_named(tables: Workbench) -> None:
    models = "{a: {use: table, name: a}, b: {use: table, name: b, can: [generate]}}"
    told = tables.told("ensemble.average", "members: {x: {model: a}, y: {model: b}}, prompt: p", models=models)
    assert "member 'y': b cannot be stepped by token" in told


# The arithmetic

ROWS = st.lists(st.lists(st.floats(-8, 8), min_size=5, max_size=5), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(ROWS, st.data())
def test_combined_rows_are_distributions_by_their_definitions(logits: list[list[float]], data: st.DataObject) -> None:
    weights = [data.draw(st.floats(0.1, 5)) for _ in logits]
    rows = [np.array(row) - np.log(np.exp(row).sum()) for row in logits]
    shares = np.array(weights) / sum(weights)
    arithmetic = np.exp(combine_rows(rows, weights, "arithmetic"))
    assert arithmetic == pytest.approx(sum(s * np.exp(row) for s, row in zip(shares, rows, strict=True)))
    product = np.exp(sum(s * row for s, row in zip(shares, rows, strict=True)))
    assert np.exp(combine_rows(rows, weights, "geometric")) == pytest.approx(product / product.sum())
    vote = combine_rows(rows, weights, "vote")
    assert np.exp(vote).sum() == pytest.approx(1)
    tally: dict[int, float] = {}
    for row, weight in zip(rows, weights, strict=True):
        tally[int(row.argmax())] = tally.get(int(row.argmax()), 0) + weight
    most = max(tally.values())
    assert tally.get(int(vote.argmax()), 0) == pytest.approx(most, abs=1e-5)


def test_a_token_that_one_member_rules_out_is_last_in_a_geometric_mean_and_not_in_an_arithmetic_one() -> None:
    sure = np.log(
        np.array([1.0, 0.0, 0.0], np.float32), where=[True, False, False], out=np.full(3, -np.inf, np.float32)
    )
    other = np.log(np.array([0.2, 0.7, 0.1], np.float32))
    assert combine_rows([sure, other], [1, 1], "geometric").argmax() == 0
    assert combine_rows([sure, other], [1, 9], "arithmetic").argmax() == 1
    assert np.isfinite(combine_rows([sure, sure], [1, 1], "geometric")[0])


def test_drawing_follows_the_probabilities_and_the_seed() -> None:
    row = np.log(np.array([0.1, 0.6, 0.3]))
    chance = random.Random(1)
    drawn = np.bincount([pick(row, 1.0, chance) for _ in range(4000)], minlength=3) / 4000
    assert drawn == pytest.approx([0.1, 0.6, 0.3], abs=0.05)
    assert pick(row, 0.0, chance) == 1
    assert [pick(row, 1.0, random.Random(7)) for _ in range(3)] == [pick(row, 1.0, random.Random(7))] * 3


# Phrases


def phrase(text: str, *, mean: float = -1.0, tokens: Sequence[int] = (0,), ends: bool = False) -> Phrase:
    return Phrase(tuple(tokens), text, mean * (len(tokens) + ends), ends)


def test_the_phrase_with_most_votes_wins_and_the_likelier_of_equals() -> None:
    winner, agreement = elect([phrase(" old"), phrase(" mill"), phrase(" old")], [1, 1, 1])
    assert winner.text == " old"
    assert agreement == pytest.approx(2 / 3)
    assert elect([phrase(" old"), phrase(" mill")], [1, 2])[0].text == " mill"
    assert elect([phrase(" old", mean=-2), phrase(" mill", mean=-1)], [1, 1])[0].text == " mill"
    assert elect([phrase(" a"), phrase(" a", ends=True), phrase("a", ends=True)], [1, 1, 1])[0].ends


def test_members_vote_word_by_word_over_the_same_text(tables: Workbench) -> None:
    members = "members: {x: {model: a}, y: {model: b}, z: {model: a, prompt: q}}, prompt: p, max_tokens: 12"
    written = tables.run("ensemble.vote_tokens", f"{members}, unit: word").output
    assert written.n_tokens <= 12
    assert 1 / 3 < written.agreement <= 1
    assert all(session.closed for model in tables.plugin.models.values() for session in model.open)
    whole = tables.run("ensemble.vote_tokens", f"{members}, unit: token").output
    assert whole.agreement is None


@pytest.mark.parametrize("unit", ["word", "sentence"])
@pytest.mark.parametrize("prompt", ["k", "l", "m"])
def test_one_voter_writes_its_own_greedy_text_whatever_the_unit(tables: Workbench, unit: str, prompt: str) -> None:
    arguments = f"members: {{x: {{model: a}}}}, prompt: {prompt}, unit: {unit}, max_tokens: 30"
    written = tables.run("ensemble.vote_tokens", arguments).output
    assert written.text == greedy([("a", prompt, 1.0)], "arithmetic", 30)
    assert written.agreement == 1.0
