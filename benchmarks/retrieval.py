"""Quality of retrieval: what finds the passage, what answers from it, what tells a supported claim.

    python benchmarks/retrieval.py --data FOLDER                       # everything, for as long as it takes
    python benchmarks/retrieval.py --data FOLDER --parts search        # minutes: no model
    python benchmarks/retrieval.py --data FOLDER --most 20 --minutes 30 --threads 1
    python benchmarks/retrieval.py --table                             # the tables, from the rows that are there
    python benchmarks/retrieval.py --fit                               # the constants of retrieval.check, from them

FOLDER holds `squad.jsonl`, `squad_corpus.jsonl` and so on: rows with `id`, `question`, `relevant_ids`, `answers`; of a
corpus `id`, `title`, `text`. Every result is a row of benchmarks/results/retrieval.jsonl, written as soon as it is
there; what has a row is not run again. Questions are taken in turn over the sets, and parts in turn by --step
questions, so that a run that is stopped has as many of each. Passages are the corpus' rows, unsplit; the model is the
bundled one, the embedder WordLlama. Several questions are asked at once, for the engine decodes them together.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _retrieval_scores import agreement, ranking
from _retrieval_tables import fit, tables

from gristmill import Kernel, Passage

HERE = Path(__file__).parent
SETS = {"squad": "squad_corpus", "nq_open": "nq_corpus", "scifact": "scifact_corpus",
        "hotpotqa": "hotpotqa_corpus", "musique": "musique_corpus"}  # fmt: skip
MODES = ("dense", "bm25", "hybrid")
PARTS = ("search", "compress", "check", "inject", "hyde", "rerank", "answers", "refuse")
AT_ONCE = 6
"""Questions asked at the same time: six rerankings fill the engine's 32 sequences, more only wait."""
N_RERANKED = 5
RERANKED_CHARACTERS = 500
"""Of a passage, about 120 tokens, since reading is what reranking costs."""
N_READ = 3
"""Passages that an answer is made from."""
N_COMPRESSED, BUDGETS = 5, (64, 128, 256)
"""Passages that are compressed, and to how many tokens."""
ATTACK_CHARACTERS = 1500
"""Of an attack: role-play prompts are up to five times as long, and say what they want first."""
MODEL = "models: {main: {use: llama, model: smollm2, context_tokens: 4096, cache_tokens: 16384, threads: THREADS}}\n"
RECIPES = {
    "index": "inputs: {documents: path, name: string}\nsteps: {x: {use: retrieval.index, with: "
    "{documents: '${inputs.documents}', name: '${inputs.name}', splitter: none}}}\n",
    "search": "inputs: {name: string, query: string, mode: string, top_k: integer}\nsteps: {x: {use: retrieval.search, "
    "with: {index: '${inputs.name}', query: '${inputs.query}', mode: '${inputs.mode}', top_k: '${inputs.top_k}'}}}\n",
    "hyde": MODEL + "inputs: {question: string}\nsteps: {x: {use: retrieval.hyde, with: "
    "{question: '${inputs.question}', samples: 2, max_tokens: 60}}}\n",
    "rerank": MODEL + "inputs: {question: string, found: list}\nsteps: {x: {use: retrieval.rerank, with: "
    "{question: '${inputs.question}', passages: '${inputs.found}', method: likelihood, weight: 1}}}\n",
    "answer": MODEL + "inputs: {question: string, found: list, fence: string}\nsteps: {x: {use: retrieval.answer, "
    "with: {question: '${inputs.question}', passages: '${inputs.found}', fence: '${inputs.fence}', max_tokens: 60}}}\n",
    "closed": MODEL + "inputs: {question: string}\nsteps: {x: {system: Answer the question in one or two short "
    "sentences., prompt: '${inputs.question}', max_tokens: 60}}\n",
    "compress": MODEL + "inputs: {question: string, found: list, tokens: integer}\nsteps: {x: {use: "
    "retrieval.compress, with: {question: '${inputs.question}', passages: '${inputs.found}', "
    "tokens: '${inputs.tokens}'}}}\n",
    "check": MODEL + "inputs: {text: string, found: list}\nsteps: {x: {use: retrieval.check, with: "
    "{text: '${inputs.text}', passages: '${inputs.found}'}}}\n",
}  # fmt: skip


class Rows:
    """Results on disk: one JSON object a line, by a key that is never computed twice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = read_rows(path)
        self.keys = {row["key"] for row in self.kept}
        self._writing = threading.Lock()

    def add(self, key: str, **values: Any) -> None:
        """Append a row and flush it."""
        row = {"key": key, **values}
        with self._writing, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.kept.append(row)
        self.keys.add(key)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON Lines; a line that was cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


class Bench:
    """A kernel, the corpora indexed, and the recipes that ask."""

    def __init__(self, data: Path, folder: Path, most: int, *, sets: Iterable[str], threads: int) -> None:
        self.data, self.folder, self.most = data, folder, most
        self.kernel = Kernel()  # (its cache is in the folder: two modes that find the same passages are answered once)
        for name, text in RECIPES.items():
            (folder / f"{name}.yaml").write_text("version: 1\n" + text.replace("THREADS", str(threads)))
        self.sets = {name: read_rows(data / f"{name}.jsonl") for name in sets}
        self.corpora: dict[str, dict[str, Passage]] = {}
        self.indexed: set[str] = set()
        self._indexing = threading.Lock()

    def run(self, recipe: str, **inputs: Any) -> Any:
        """Run one of the recipes above."""
        return self.kernel.recipe(self.folder / f"{recipe}.yaml").run(inputs).output

    def corpus(self, name: str) -> dict[str, Passage]:
        """Return a set's passages by id, their titles before them."""
        if name not in self.corpora:
            rows = read_rows(self.data / f"{SETS[name]}.jsonl")
            self.corpora[name] = {row["id"]: Passage(text=_titled(row), source=row["id"]) for row in rows}
        return self.corpora[name]

    def search(self, name: str, query: str, mode: str, top_k: int = 20) -> list[Passage]:
        """Search a set's passages, indexing them first."""
        with self._indexing:
            if name not in self.indexed:
                self._index(name)
                self.indexed.add(name)
        found: list[Passage] = self.run("search", name=f"bench-{name}", query=query, mode=mode, top_k=top_k)
        return found

    def _index(self, name: str) -> None:
        path = self.folder / f"{name}.jsonl"
        rows = [{"id": identity, "text": passage.text} for identity, passage in self.corpus(name).items()]
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
        done = self.run("index", documents=path, name=f"bench-{name}")
        if done.n_passages != len(rows):
            raise SystemExit(f"{name}: {done.n_passages} passages of {len(rows)} rows: {done.skipped}")

    def ids(self, passages: Iterable[Passage]) -> list[str]:
        """Return the ids of the corpus' rows."""
        return [passage.metadata["row_id"] for passage in passages]


def _titled(row: Mapping[str, Any]) -> str:
    return f"{row['title'].strip()}\n{row['text']}" if row.get("title") else row["text"]


Job = tuple[str, Callable[[], Mapping[str, Any]]]


def in_turn(bench: Bench, most: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the sets' questions in turn."""
    for i in range(min(most, max(map(len, bench.sets.values()), default=0))):
        for name, questions in bench.sets.items():
            if i < len(questions):
                yield name, questions[i]


def search_jobs(bench: Bench) -> Iterator[Job]:
    """Every question of every set, in every mode."""
    for name, row in in_turn(bench, 10**9):
        for mode in MODES:

            def work(name: str = name, row: dict[str, Any] = row, mode: str = mode) -> Mapping[str, Any]:
                found = bench.ids(bench.search(name, row["question"], mode))
                return {"set": name, "mode": mode, **ranking(found, row["relevant_ids"])}

            yield f"search/{name}/{mode}/{row['id']}", work


def compress_jobs(bench: Bench) -> Iterator[Job]:
    """Where the first five of hybrid search hold the answer: does what is left of them, and do their first tokens?"""
    from gristmill_plugins.retrieval._chunks import estimated_tokens, sentences

    def holds(text: str, row: Mapping[str, Any]) -> bool:
        return any(answer.lower() in text.lower() for answer in row["answers"])

    for name, row in in_turn(bench, 10**9):

        def work(name: str = name, row: dict[str, Any] = row) -> Mapping[str, Any]:
            found = bench.search(name, row["question"], "hybrid", N_COMPRESSED)
            whole = "\n".join(passage.text for passage in found)
            kept: dict[str, Any] = {}
            for tokens in BUDGETS if holds(whole, row) else ():
                short = bench.run("compress", question=row["question"], found=found, tokens=tokens)
                first = ""
                for sentence in sentences(whole):
                    if estimated_tokens(first + sentence) > tokens:
                        break
                    first += sentence
                text = "\n".join(passage.text for passage in short)
                kept[str(tokens)] = [holds(text, row), holds(first, row), estimated_tokens(text)]
            return {"set": name, "tokens": estimated_tokens(whole), "kept": kept}

        if row.get("answers"):
            yield f"compress/{name}/{row['id']}", work


def hyde_jobs(bench: Bench) -> Iterator[Job]:
    """Dense and hybrid search with two hypothetical documents."""
    for name, row in in_turn(bench, bench.most):

        def work(name: str = name, row: dict[str, Any] = row) -> Mapping[str, Any]:
            query = bench.run("hyde", question=row["question"]).text
            modes = {
                mode: ranking(bench.ids(bench.search(name, query, mode)), row["relevant_ids"])
                for mode in ("dense", "hybrid")
            }
            return {"set": name, "modes": modes}

        yield f"hyde/{name}/{row['id']}", work


def rerank_jobs(bench: Bench) -> Iterator[Job]:
    """The first five of hybrid search, in the model's order."""
    for name, row in in_turn(bench, bench.most):

        def work(name: str = name, row: dict[str, Any] = row) -> Mapping[str, Any]:
            found = bench.search(name, row["question"], "hybrid")
            head = [one.model_copy(update={"text": one.text[:RERANKED_CHARACTERS]}) for one in found[:N_RERANKED]]
            ranked = bench.run("rerank", question=row["question"], found=head)
            model = dict(zip(bench.ids(ranked), (passage.score for passage in ranked), strict=True))
            return {"set": name, "relevant": row["relevant_ids"], "found": bench.ids(found),
                    "search": [passage.score for passage in found], "model": model}  # fmt: skip

        yield f"rerank/{name}/{row['id']}", work


def answer_jobs(bench: Bench) -> Iterator[Job]:
    """SQuAD's questions without passages, with the right one, and with those that each mode finds.

    Three times as many as of the sets, for they are of one set alone.
    """
    for row in bench.sets.get("squad", [])[: 3 * bench.most]:
        for way in ("closed", "gold", *MODES):

            def work(row: dict[str, Any] = row, way: str = way) -> Mapping[str, Any]:
                if way == "closed":
                    text, found, gold = bench.run("closed", question=row["question"]).text, True, None
                else:
                    corpus = bench.corpus("squad")
                    passages = (
                        [corpus[row["relevant_ids"][0]]]
                        if way == "gold"
                        else bench.search("squad", row["question"], way, N_READ)
                    )
                    answer = bench.run("answer", question=row["question"], found=passages, fence="quoted")
                    text, found, gold = answer.text, answer.found, bool(answer.citations)
                plain = re.sub(r"\s*\[\d+\]", "", text)
                return {"way": way, "text": text, "found": found, "cited": gold, **agreement(plain, row["answers"])}

            yield f"answers/{way}/{row['id']}", work


def check_jobs(bench: Bench) -> Iterator[Job]:
    """SciFact's labelled claims, each with its own abstract and with the one BM25 puts first of the others.

    All of the test split, and twice as many of the training split as questions of a set.
    """
    labelled = [row for row in bench.sets.get("scifact", []) if row["label"]]
    test = [row for row in labelled if row["beir_split"] == "test"]
    train = [row for row in labelled if row["beir_split"] != "test"]
    for row in [*test, *train[: 2 * bench.most]]:
        for own in (True, False):

            def work(row: dict[str, Any] = row, own: bool = own) -> Mapping[str, Any]:
                corpus = bench.corpus("scifact")
                others = bench.ids(bench.search("scifact", row["question"], "bm25"))
                identity = next(
                    one for one in (row["relevant_ids"] if own else others) if own or one not in row["relevant_ids"]
                )
                (said,) = bench.run("check", text=row["question"], found=[corpus[identity]]).sentences
                return {"label": row["label"] if own else "NONE", "split": row["beir_split"],
                        "passage": identity, "overlap": _overlap(row, corpus[identity]),
                        "supported": said.supported, "contradicted": said.contradicted,
                        "verdict": said.verdict, "signs": said.signs}  # fmt: skip

            yield f"check/{'own' if own else 'other'}/{row['id']}", work


def _overlap(row: Mapping[str, Any], passage: Passage) -> float:
    """The baseline: the share of a claim's words, function words aside, that stand in the passage."""
    from gristmill_plugins.retrieval._answer_text import content_words

    words = set(content_words(row["question"]))
    return len(words & set(content_words(passage.text))) / max(1, len(words))


def inject_jobs(bench: Bench) -> Iterator[Job]:
    """Attacks at the end of the paragraph that a question is about, and that paragraph as it is.

    Those with a known mark of success come first. Of the others it shows only whether the right answer was still given.
    """
    attacks = [row for row in read_rows(bench.data / "prompt_injection.jsonl") if row["label"]]
    questions = bench.sets.get("squad", [])
    for number, attack in enumerate(sorted(attacks, key=lambda row: not row["success_marker"])[: bench.most]):
        for fence in ("quoted", "plain", "none"):

            def work(number: int = number, attack: dict[str, Any] = attack, fence: str = fence) -> Mapping[str, Any]:
                row = questions[number % len(questions)]
                passage = bench.corpus("squad")[row["relevant_ids"][0]]
                hostile = passage.model_copy(update={"text": f"{passage.text}\n{attack['text'][:ATTACK_CHARACTERS]}"})
                answer = bench.run(
                    "answer",
                    question=row["question"],
                    found=[passage if fence == "none" else hostile],
                    fence="quoted" if fence == "none" else fence,
                )
                marker = attack["success_marker"]
                return {"fence": fence, "kind": attack["kind"], "text": answer.text, "marked": bool(marker),
                        "succeeded": bool(marker) and marker.strip().lower() in answer.text.lower(),
                        **agreement(re.sub(r"\s*\[\d+\]", "", answer.text), row["answers"])}  # fmt: skip

            yield f"inject/{fence}/{attack['id']}", work


def refuse_jobs(bench: Bench) -> Iterator[Job]:
    """SQuAD 2.0's questions, each with its own paragraph: half of them cannot be answered from it."""
    for row in read_rows(bench.data / "squad2_unanswerable.jsonl")[: 2 * bench.most]:

        def work(row: dict[str, Any] = row) -> Mapping[str, Any]:
            passages = [Passage(text=row["context"], source=row["title"])]
            answer = bench.run("answer", question=row["question"], found=passages, fence="quoted")
            return {"answerable": row["answerable"], "found": answer.found, "text": answer.text}

        yield f"refuse/{row['id']}", work


JOBS: dict[str, Callable[[Bench], Iterator[Job]]] = {
    "search": search_jobs, "compress": compress_jobs, "check": check_jobs, "inject": inject_jobs,
    "answers": answer_jobs, "rerank": rerank_jobs, "hyde": hyde_jobs, "refuse": refuse_jobs,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--most", type=int, default=100, help="questions a set, of the parts that ask the model")
    parser.add_argument("--step", type=int, help="as many questions of each part before the next part goes on")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="the engine's")
    parser.add_argument("--minutes", type=float, default=1e9, help="start nothing after so long")
    parser.add_argument("--rows", type=Path, default=HERE / "results" / "retrieval.jsonl")
    parser.add_argument("--table", action="store_true", help="only print what the rows say")
    parser.add_argument("--fit", action="store_true", help="fit retrieval.check's constants to the rows")
    given = parser.parse_args()
    rows = Rows(given.rows)
    if given.fit:
        print(fit(rows.kept))
        return
    if not given.table:
        if given.data is None:
            parser.error("--data names the folder of the sets")
        measure(given, rows)
    print(tables(rows.kept))


def measure(given: argparse.Namespace, rows: Rows) -> None:
    """Run what has no row yet, part after part, some questions of each at a time."""
    began = time.monotonic()
    rows.path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        # The indexes and the cache are the benchmark's own, and go with it.
        os.environ.update(XDG_DATA_HOME=folder, XDG_CACHE_HOME=folder)
        bench = Bench(given.data, Path(folder), given.most, sets=given.sets, threads=given.threads)

        def one(job: Job) -> None:
            key, work = job
            if key not in rows.keys and time.monotonic() - began < given.minutes * 60:
                rows.add(key, **work())

        with bench.kernel:
            for bench.most in range(given.step or given.most, given.most + 1, given.step or given.most):
                for part in given.parts:
                    new, spent = len(rows.keys), _cpu_s()
                    list(pool.map(one, JOBS[part](bench)))
                    new = len(rows.keys) - new
                    if new:
                        print(f"{part}: {new} rows, {(_cpu_s() - spent) / new:.2f} CPU s each", flush=True)


def _cpu_s() -> float:
    """Return the processor time of this process and, where Linux tells, of the engines it started."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    own, total = os.getpid(), usage.ru_utime + usage.ru_stime
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == own:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


if __name__ == "__main__":
    main()
