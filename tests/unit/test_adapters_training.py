"""The parts of training that need no torch: rows, splits, ids, schedules, curves, measures, advice."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gristmill import FunctionError, Message, UsageError
from gristmill.testing import FakeModel
from gristmill_plugins.adapters import options_of
from gristmill_plugins.adapters._advise import advise
from gristmill_plugins.adapters._curve import Curve, svg
from gristmill_plugins.adapters._examples import (
    Columns,
    Example,
    fill,
    labels_of,
    pick_shots,
    read_examples,
    split,
)
from gristmill_plugins.adapters._loop import batches_of_epoch, checkpoint_step, checkpoints, schedule
from gristmill_plugins.adapters._measure import answers, as_measured, right, sign_test, wilson
from gristmill_plugins.adapters._plan import TrainOptions, check_options, memory_bytes, n_steps, plan_key
from gristmill_plugins.adapters._tokens import encode_chats, end_tokens

# -- rows --------------------------------------------------------------------------------------------------------------


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_become_examples_by_templates(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "d.jsonl",
        {"text": "Win £1000 ${label}", "label": "spam", "columns": ["a", "b"], "n": 3},
        {"text": "Lunch?", "label": "", "columns": [], "n": None},
    )
    columns = Columns(prompt="${n} of ${columns}: ${ text }", completion=" ${label} ")
    assert read_examples(path, columns) == [Example("3 of a, b: Win £1000 ${label}", "spam")]
    assert read_examples(path, Columns(text="${text}")) == [
        Example(None, "Win £1000 ${label}"),
        Example(None, "Lunch?"),
    ]


def test_csv_rows_may_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('\ufeffprompt,completion\n"one, two\nthree","say ""no"""\n', encoding="utf-8")
    assert read_examples(path, Columns()) == [Example("one, two\nthree", 'say "no"')]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("d.jsonl", '{"prompt": "a"}\n', "d.jsonl:1: there is no column 'completion'\n  columns: prompt"),
        ("d.jsonl", '{"prompt": "a"}\n{', "d.jsonl:1: there is no column"),
        ("d.jsonl", '{"prompt": "", "completion": "x"}\n\n[1]\n', "d.jsonl:3: this is no JSON object"),
        ("d.jsonl", "{nope", "d.jsonl:1: this is no JSON"),
        ("d.jsonl", "", "holds no example"),
        ("d.csv", "prompt,completion\na\n", "d.csv:2: the row has not as many cells as the first line"),
        ("d.csv", "prompt,completion\na,b,c\n", "d.csv:2: the row has not as many cells as the first line"),
        ("d.csv", 'prompt,completion\n"a"b,c\n', "d.csv:"),
        ("d.txt", "x", "its name ends with neither .csv nor .jsonl"),
        ("d.csv", b"prompt,completion\n\xff,x\n", "is not UTF-8: byte"),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((FunctionError, UsageError)) as caught:
        read_examples(path, Columns())
    assert reason in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        read_examples(tmp_path / "none.csv", Columns())


def test_a_column_is_filled_in_once_and_never_again() -> None:
    assert fill("${a}${b}", {"a": "${b}", "b": {"x": 1}}) == '${b}{"x": 1}'


def some(n: int, labels: Sequence[str] = ("yes", "no")) -> list[Example]:
    return [Example(f"question {number}", labels[number % len(labels)]) for number in range(n)]


def test_equal_prompts_are_on_one_side_of_a_split_that_the_seed_decides() -> None:
    examples = [*some(40), *some(40)]
    train, held = split(examples, 0.25, seed=1)
    assert len(held) == 20
    assert len(train) == 60
    assert not {one.prompt for one in train} & {one.prompt for one in held}
    assert split(examples, 0.25, seed=1) == (train, held)
    assert split(examples, 0.25, seed=2) != (train, held)
    with pytest.raises(FunctionError, match="1 different examples cannot be split 90% to 10%"):
        split(some(1), 0.1, seed=0)


def test_a_closed_list_of_completions_is_found_and_an_open_one_is_not() -> None:
    assert labels_of([*some(10), Example("more", "no")]) == ("no", "yes")
    assert labels_of([Example(str(n), f"answer {n}") for n in range(30)]) == ()
    assert labels_of(some(4)) == ()
    assert labels_of([Example(None, "a"), Example(None, "b")] * 9) == ()


def test_shots_show_every_label_alike() -> None:
    examples = [*some(60, ("ham",)), *[Example(f"spam {n}", "spam") for n in range(6)]]
    shots = pick_shots(examples, 4, seed=0)
    assert [shot.completion for shot in shots].count("spam") == 2
    assert len({shot.prompt for shot in shots}) == 4
    assert pick_shots(examples, 4, seed=0) == shots
    assert pick_shots(examples, 0, seed=0) == []


# -- ids ---------------------------------------------------------------------------------------------------------------


class Spelling:
    """An engine whose ids are characters, with 1 before and 2 after each message."""

    end = 2

    async def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        ids = [part for m in messages for part in (1, *map(ord, m.content), self.end)]
        return [*ids, 1]


async def test_the_loss_falls_on_the_completion_and_its_end_alone() -> None:
    model: Any = Spelling()
    (found,) = await encode_chats(model, [Example("ab", "yes")], system="S", ends=frozenset({2}))
    assert found.ids[found.start :] == (*map(ord, "yes"), 2)
    assert found.ids[: found.start] == (1, ord("S"), 2, 1, *map(ord, "ab"), 2, 1)


async def test_a_template_that_does_not_end_its_answers_is_refused() -> None:
    model: Any = Spelling()
    with pytest.raises(FunctionError, match="does not end an answer with an end token"):
        await encode_chats(model, some(1), system=None, ends=frozenset({9}))


def test_end_tokens_are_those_the_model_names() -> None:
    header = {"metadata": {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 7}}
    assert end_tokens(header) == {2, 7}


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rank", 0), ("alpha", 0.0), ("dropout", 1.0), ("epochs", 0.0), ("batch", 0), ("accumulate", 0),
        ("learning_rate", 0.0), ("warmup", 1.0), ("max_tokens", 4), ("holdout", 0.0), ("minutes", 0.0), ("layers", 0),
        ("threads", 0), ("precision", "float8"),
    ],
)  # fmt: skip
def test_an_option_that_means_nothing_is_named(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        check_options(options_of({option: value}))


def test_options_come_from_a_mapping_of_a_recipe() -> None:
    options = options_of({"rank": 4, "targets": ["q_proj"], "minutes": 2})
    assert (options.rank, options.targets, options.minutes, options.batch) == (4, ("q_proj",), 2.0, 8)
    assert options_of(None) == TrainOptions()
    with pytest.raises(FunctionError, match="'ranks' is no option of training"):
        options_of({"ranks": 4})
    with pytest.raises(FunctionError, match="the option 'rank' is 'four'"):
        options_of({"rank": "four"})


def test_a_run_is_known_by_its_options_base_and_data(tmp_path: Path) -> None:
    data = jsonl(tmp_path / "d.jsonl", {"prompt": "a", "completion": "b"})
    key = plan_key(TrainOptions(), "00", [data])
    assert key == plan_key(TrainOptions(), "00", [data])
    assert len({key, plan_key(TrainOptions(rank=4), "00", [data]), plan_key(TrainOptions(), "01", [data])}) == 3
    data.write_text("{}")
    assert plan_key(TrainOptions(), "00", [data]) != key


def test_steps_count_batches_accumulation_and_epochs() -> None:
    assert n_steps(100, TrainOptions(batch=8, epochs=1)) == 13
    assert n_steps(100, TrainOptions(batch=8, epochs=2, accumulate=4)) == 7
    assert n_steps(1, TrainOptions(epochs=0.1)) == 1


def test_memory_grows_with_batch_layers_and_precision() -> None:
    pytest.importorskip("gguf", reason="the extra gristmill[adapters] is not installed")
    header = {
        "architecture": "llama",
        "metadata": {"llama.block_count": 2, "llama.embedding_length": 64, "llama.feed_forward_length": 128},
        "tensors": [
            {"name": f"blk.{n}.{name}.weight", "shape": (64, 64)}
            for n in (0, 1)
            for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        ],
    }

    def needed(precision: str = "float32", **options: Any) -> int:
        made = TrainOptions(**options)
        return memory_bytes(header, made, longest=500, longest_loss=10, precision=precision)

    assert needed(batch=64) > 3 * (needed(batch=8) - 450_000_000)
    assert needed(layers=1) < needed()
    assert needed("bfloat16") <= needed()
    with pytest.raises(UsageError, match="no matrix for the target 'c_attn'"):
        needed(targets=("c_attn",))


# -- the loop's arithmetic ---------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_straight_and_falls_on_a_cosine() -> None:
    assert schedule(0.05, 0.1) == pytest.approx(0.5)
    assert schedule(0.1, 0.1) == pytest.approx(1.0)
    assert schedule(0.55, 0.1) == pytest.approx(0.5)
    assert schedule(1.0, 0.1) == pytest.approx(0.0)
    assert 0 < schedule(0.0, 0.1) < 0.1
    assert schedule(0.0, 0.0) == pytest.approx(1.0)


def test_an_epoch_has_every_example_once_in_batches_of_like_length() -> None:
    chance = random.Random(0)
    lengths = [chance.randint(5, 300) for _ in range(203)]
    options = TrainOptions(batch=8)
    batches = batches_of_epoch(lengths, options, 0)
    assert sorted(index for batch in batches for index in batch) == list(range(203))
    padding = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches) - sum(lengths)
    assert padding < 0.1 * sum(lengths)
    assert batches_of_epoch(lengths, options, 0) == batches
    assert batches_of_epoch(lengths, options, 1) != batches


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    for name, whole in (("checkpoint-0000025", True), ("checkpoint-0000050", False), ("checkpoint.part", True)):
        (tmp_path / name).mkdir()
        if whole:
            (tmp_path / name / "state.json").write_text("{}")
    assert [checkpoint_step(path) for path in checkpoints(tmp_path)] == [25]


def test_a_curve_goes_on_from_a_checkpoint_and_drops_what_came_later(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "loss.jsonl")
    for step in range(1, 6):
        curve.add(step=step, loss=1 / step)
    with (tmp_path / "loss.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    again = Curve(tmp_path / "loss.jsonl")
    again.resume(3)
    again.add(step=4, loss=0.2)
    rows = [json.loads(line) for line in (tmp_path / "loss.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert again.rows == rows


def test_a_curve_is_drawn_as_svg_inside_its_frame() -> None:
    rows = [
        {"step": 0, "held_out": 4.0},
        *({"step": n, "loss": 4 / n} for n in range(1, 9)),
        {"step": 8, "held_out": 1.0},
    ]
    drawn = ElementTree.fromstring(svg(rows, "a < b & c"))
    lines = drawn.findall("{*}polyline")
    assert len(lines) == 4
    for line in lines:
        for point in line.get("points", "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 640
            assert 0 <= y <= 320
    assert "a < b & c" in [text.text for text in drawn.findall("{*}text")]
    assert ElementTree.fromstring(svg([], "nothing yet")) is not None


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_an_interval_is_wilsons() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Newcombe 1998, table I has such values
    assert wilson(0, 20)[0] == 0
    assert wilson(0, 0) == (0.0, 1.0)


def test_before_and_after_are_compared_by_the_sign_test() -> None:
    before, after = [False] * 6 + [True], [True] * 6 + [True]
    assert sign_test(before, after) == pytest.approx(2 / 64)
    assert sign_test(after, after) == 1.0
    found = as_measured("trained", after, before)
    assert (found.n, found.n_right) == (7, 7)
    assert found.p_value == pytest.approx(2 / 64)
    assert as_measured("zero-shot", before).p_value is None


async def test_a_choosing_task_is_answered_by_the_likeliest_label_and_others_by_text() -> None:
    examples = [Example("one", "yes"), Example("two", "no")]
    model = FakeModel(answers="no")
    chosen = await answers(model, examples, system=None, labels=("yes", "no"))
    assert set(chosen) <= {"yes", "no"}
    written = await answers(model, examples, system="S", shots=[Example("three", "no")], adapters=None)
    assert written == ["no", "no"]
    assert right(written, examples) == [False, True]
    last = model.requests[-1]
    assert [m.role for m in last.messages] == ["system", "user", "assistant", "user"]


# -- advice ------------------------------------------------------------------------------------------------------------


def test_labels_and_forms_are_a_behaviour_and_facts_are_knowledge() -> None:
    labels = [Example(f"message {n}", ("spam", "ham")[n % 2]) for n in range(300)]
    assert advise(labels).way == "fine-tuning"
    assert advise(labels[:40]).way == "prompting"
    assert "2 labels" in advise(labels).reasons[0]
    facts = [Example(f"Who made machine {n}?", f"Engineer{n} of Town{n * 7} in Year{1500 + n}") for n in range(300)]
    found = advise(facts)
    assert found.way == "retrieval"
    assert found.facts["known_words"] < 0.6 < found.facts["new_words"]


def test_what_was_measured_outweighs_what_examples_look_like() -> None:
    labels = [Example(f"message {n}", ("spam", "ham")[n % 2]) for n in range(300)]
    assert advise(labels, {"prompting": 0.97, "fine-tuning": 0.98}, 300).way == "prompting"
    found = advise(labels, {"prompting": 0.5, "retrieval": 0.8, "fine-tuning": 0.6}, 300)
    assert found.way == "retrieval"
    assert "measured on 300 examples, retrieval is right 80%" in found.reasons[0]
    close = advise(labels, {"prompting": 0.61, "fine-tuning": 0.62}, 100)
    assert close.way == "fine-tuning"
    assert "do not differ beyond chance on 100 examples" in close.reasons[-1]
