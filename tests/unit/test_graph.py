"""Pictures of recipes: complete, readable, never overlapping, and never more than text."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from gristmill import Kernel
from gristmill._language._recipe import Recipe
from gristmill._tools._graph import MOST_LANES, draw_mermaid, draw_svg, draw_text
from gristmill._tools._graph_svg import lay_out
from gristmill._tools._picture import OUTPUT, clean, picture_of
from gristmill.testing import FakePlugin

SVG = "{http://www.w3.org/2000/svg}"
HEAD = "version: 1\nmodels:\n  main: {use: fake}\n"

DIAMOND = """
name: diamond
description: Two ways, then one.
inputs:
  question: {type: string}
  words: {type: integer, default: 20}
steps:
  first: {prompt: "${inputs.question}"}
  left: {prompt: "${first}", if: "${inputs.words > 3}", choices: ["a", "b"]}
  right: {prompt: "${first}", for_each: "${[1, 2]}", as: n, retry: 3, timeout_s: 5}
  log: {prompt: hello, needs: [first], on_error: skip}
  last:
    prompt: "${right | length} ${inputs['question']}"
    samples: 4
    temperature: 1
    schema: {answer: string}
    needs: [log]
  tune: {prompt: shorter, repeat: {until: "${tune.text == 'x'}", max: 3}}
output: {last: "${last}", left: "${left}", tune: "${tune}"}
"""

HOSTILE = r"""
name: hostile
description: "</title><script>alert(1)</script> --> \" ]]> &amp; \x1b[31m \u202e `x` #quot;"
inputs:
  q: {type: string, default: "\"]; click n0 callback; <img src=x onerror=alert(1)> --> %%"}
steps:
  a: {prompt: "${inputs.q}", if: "${inputs.q != '</text><script>alert(1)</script>'}"}
output: ${a}
"""


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(HEAD + text, encoding="utf-8", errors="surrogatepass")
    recipe = Kernel(plugins={"fake": FakePlugin()}, cache=False).check(path)
    assert not recipe.errors, [diagnostic.render() for diagnostic in recipe.errors]
    return recipe


def layered(n_layers: int, n_wide: int) -> str:
    """Return a recipe whose every step reads two of the layer above and one further up."""
    lines = ["name: mesh", "inputs: {q: string}", "steps:"]
    for layer, i in itertools.product(range(n_layers), range(n_wide)):
        reads = ["${inputs.q}"] if layer == 0 else [f"${{s{layer - 1}_{(i + k) % n_wide}}}" for k in (0, 1)]
        reads += [f"${{s{layer - 3}_{i}}}"] if layer > 2 else []
        lines.append(f'  s{layer}_{i}: {{prompt: "{" ".join(reads)}"}}')
    return "\n".join([*lines, f'output: "${{s{n_layers - 1}_0}}"'])


def test_the_text_shows_every_edge_as_a_rail(tmp_path: Path) -> None:
    assert draw_text(read(tmp_path, DIAMOND)) == (
        "diamond: Two ways, then one.\n"
        "\n"
        "○        question  string\n"
        "├─●      first     prompt on main\n"
        "│ │ ○    words     integer = 20\n"
        "│ ├─●    left      prompt on main                 [if inputs.words > 3]  [2 choices]\n"
        "│ ├─│─●  right     prompt on main                 [for each n]  [3 attempts]  [at most 5 s]\n"
        "│ ● │ │  log       prompt on main                 [may fail]  [after first]\n"
        "●─┴─│─╯  last      prompt on main                 [schema]  [4 samples]  [after log]\n"
        "│ ● │    tune      prompt on main                 [repeat up to 3]\n"
        "◆─┴─╯    output    mapping with last, left, tune"
    )


def test_a_chain_is_one_straight_rail(tmp_path: Path) -> None:
    recipe = read(tmp_path, "inputs: {q: string}\nsteps: {a: {prompt: '${inputs.q}'}, b: {prompt: '${a}'}}")
    assert [line[:3].strip() for line in draw_text(recipe).splitlines()[2:]] == ["○", "●", "●", "◆"]


def test_boxes_that_are_not_joined_never_stand_under_each_other_without_a_gap(tmp_path: Path) -> None:
    recipe = read(tmp_path, "steps: {unread: {prompt: x}, read: {prompt: y}}\noutput: ${read}")
    lines = draw_text(recipe).splitlines()[2:]
    assert [line[:1] for line in lines] == ["●", "", "●", "◆"]


def test_a_recipe_too_wide_for_rails_lists_what_each_step_reads(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(MOST_LANES + 2)]
    steps = "".join(f"  {name}: {{prompt: x}}\n" for name in names)
    text = draw_text(read(tmp_path, f"steps:\n{steps}output: {' '.join(f'${{{name}}}' for name in names)}"))
    assert text.splitlines()[-1].startswith("◆  output")
    assert text.endswith("<- " + ", ".join(sorted(names)))


def test_inputs_stand_before_their_first_reader_and_a_bare_inputs_reads_all(tmp_path: Path) -> None:
    recipe = read(
        tmp_path, "inputs: {a: string, b: string}\nsteps: {one: {prompt: x}, two: {prompt: '${inputs | tojson}'}}"
    )
    picture = picture_of(recipe)
    assert list(picture.boxes)[-2:] == ["two", OUTPUT]
    assert {("inputs.a", "two"), ("inputs.b", "two")} <= picture.edges.keys()


def test_an_input_is_drawn_once_however_it_is_read(tmp_path: Path) -> None:
    picture = picture_of(read(tmp_path, DIAMOND))
    assert [key for key in picture.boxes if key.startswith("inputs.")] == ["inputs.question", "inputs.words"]
    assert picture.edges["inputs.question", "last"] is False
    assert picture.edges["first", "log"] is True


def test_a_step_called_output_is_not_the_output(tmp_path: Path) -> None:
    picture = picture_of(read(tmp_path, "steps: {output: {prompt: x}}"))
    assert picture.edges == {("output", OUTPUT): False}


@pytest.mark.parametrize("text", [DIAMOND, layered(2, 2), layered(6, 5)])
def test_svg_boxes_never_overlap_and_edges_run_beside_them(tmp_path: Path, text: str) -> None:
    layout = lay_out(picture_of(read(tmp_path, text)))
    for layer in layout.layers:
        for left, right in itertools.pairwise(layer):
            assert right.x - left.x >= (left.width + right.width) / 2 + 8
    for upper, lower, _ in layout.segments.values():
        assert lower.layer == upper.layer + 1


def test_the_svg_is_complete_and_needs_nothing_else(tmp_path: Path) -> None:
    text = draw_svg(read(tmp_path, DIAMOND))
    root = ElementTree.fromstring(text)
    names = [element.text for element in root.iter(f"{SVG}text") if element.get("class") == "gm-name"]
    assert sorted(filter(None, names)) == sorted(
        ["question", "words", "first", "left", "right", "log", "last", "tune", "output"]
    )
    assert "prefers-color-scheme:dark" in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|<script|<image|<foreignObject", text)
    width, height = (float(root.get(key, "0")) for key in ("width", "height"))
    for rect in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(key, "0")) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height


def test_no_text_of_a_recipe_becomes_markup_in_the_svg(tmp_path: Path) -> None:
    root = ElementTree.fromstring(draw_svg(read(tmp_path, HOSTILE)))
    plain = {"svg", "title", "desc", "style", "defs", "marker", "path", "rect", "text"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == plain
    assert "<script>alert(1)</script>" in (root.findtext(f"{SVG}desc") or "")


def test_no_text_of_a_recipe_becomes_markup_in_mermaid(tmp_path: Path) -> None:
    lines = draw_mermaid(read(tmp_path, HOSTILE)).splitlines()
    label = r'"<b>\w+</b>(<br/>([\w .,/�…]|#\d+;)+)*"'
    assert lines[0] == "flowchart TD"
    for line in lines[1:]:
        assert re.fullmatch(rf"    (n\d(\[|\(\[){label}(\]|\]\))|n\d --> n\d|classDef .*|class n\d optional)", line), (
            line
        )


def test_no_text_of_a_recipe_controls_the_terminal(tmp_path: Path) -> None:
    text = draw_text(read(tmp_path, HOSTILE))
    assert all(char == "\n" or char.isprintable() for char in text)
    assert len(text.splitlines()) == 5


def test_order_only_edges_are_dashed(tmp_path: Path) -> None:
    recipe = read(tmp_path, "steps: {a: {prompt: x}, b: {prompt: y, needs: a}}\noutput: ${b}")
    assert "n0 -.-> n1" in draw_mermaid(recipe)
    assert "gm-edge gm-order" in draw_svg(recipe)


def test_long_texts_are_shortened_to_one_line() -> None:
    assert clean("a\n  b\tc") == "a b c"
    assert clean("x" * 50) == "x" * 39 + "…"
    assert clean("a\x1b[31m\u202eb") == "a�[31m�b"
