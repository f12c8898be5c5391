"""Retrieval: gristmill against LlamaIndex, LangChain with FAISS, and Haystack's BM25, by time, memory and disk.

    python benchmarks/retrieval_speed.py                              # 1,500 and 20,000 passages of made-up words
    python benchmarks/retrieval_speed.py --data FOLDER --sizes 1500 100000

With `--data`, passages are four sentences each out of the `*_corpus.jsonl` of that folder and queries are the questions
of its `squad.jsonl`. Every contender gets the same passages, one chunk each, and the same embedder (WordLlama, 256
dimensions; the same code in every process), each in its own environment and process; they take turns. A query is the
contender's public call, from the question to five passages:

- gristmill: a recipe with one `retrieval.search` step, run through the kernel: the documents are looked at for changes,
  the question is embedded, and each passage has its file and line. It indexes a JSON Lines file that it reads itself;
- LlamaIndex: `VectorStoreIndex` with its `SimpleVectorStore`, `as_retriever().retrieve`, persisted as JSON;
- LangChain: `FAISS.similarity_search_with_score`, exact, saved with `save_local`;
- Haystack: `InMemoryBM25Retriever`, saved with `save_to_disk`. It embeds nothing, so beside it stands an index of
  gristmill's that was made with `vectors: false`.

"index" is from the texts to an index on disk; "open" is from the start of a new process to its first answer, imports
and the embedder included. Small indexes are built more than once, in turns. Processor time of a query is given beside
its wall time, which other processes on the machine stretch. LlamaIndex goes to 20,000: its search is linear Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _peers

ROOT = _peers.HERE.parent
TOP_K = 5
EMBEDDER = ["numpy", "tokenizers", "safetensors", "wordllama==0.4.0.post1", "pydantic", "jinja2", "pyyaml"]
PEERS = {
    "retrieval-llamaindex": ["llama-index-core==0.14.25", *EMBEDDER],
    "retrieval-langchain": ["langchain-community==0.4.2", "faiss-cpu", *EMBEDDER],
    "retrieval-haystack": ["haystack-ai==3.4.0"],
}
CONTENDERS = {
    "gristmill": None,
    "gristmill words": None,
    "LlamaIndex": "retrieval-llamaindex",
    "LangChain FAISS": "retrieval-langchain",
    "Haystack BM25": "retrieval-haystack",
}
AGAINST = {"gristmill, dense": ("LlamaIndex", "LangChain FAISS"), "gristmill words, bm25": ("Haystack BM25",)}
"""Which rows are compared: by meaning with by meaning, by words with by words."""
MOST = {"LlamaIndex": 20_000}
MOST_BUILT = 10_000
"""Passages that are indexed by one contender over all builds, the first build aside."""
Query = Callable[[str], Sequence[str]]


class Contender:
    """What is measured: `build` an index of texts in a folder, `open` it again, and query it."""

    def __init__(self, folder: Path, texts: Sequence[str]) -> None:
        self.folder = folder
        self.texts = texts

    def build(self) -> None:
        """Index all texts and leave the index on disk."""
        raise NotImplementedError

    def open(self) -> dict[str, Query]:
        """Open what is on disk and return each kind of query, by name; each returns the texts that it found."""
        raise NotImplementedError


class Gristmill(Contender):
    """This project, through its recipes."""

    name, making = "gristmill", "splitter: none"
    modes: Sequence[str] = ("dense", "bm25", "hybrid")

    def __init__(self, folder: Path, texts: Sequence[str]) -> None:
        super().__init__(folder, texts)
        self.kernel: Any = None
        self.work = folder.parent / f"{folder.name}-documents"
        if not self.work.exists():
            self._write_documents()

    def _write_documents(self) -> None:
        self.work.mkdir()
        with (self.work / "passages.jsonl").open("w", encoding="utf-8") as file:
            for text in self.texts:
                file.write(json.dumps({"text": text}) + "\n")
        old = time.time() - 3600  # as documents are: not written within the last two seconds
        os.utime(self.work / "passages.jsonl", (old, old))
        step = "steps:\n  s:\n    use: retrieval.{}\n    with: {{documents: ./passages.jsonl, {}}}\n"
        (self.work / "index.yaml").write_text("version: 1\n" + step.format("index", self.making))
        asked = f'query: "${{inputs.q}}", mode: "${{inputs.mode}}", top_k: {TOP_K}'
        head = "version: 1\ninputs: {q: string, mode: string}\n"
        (self.work / "search.yaml").write_text(head + step.format("search", asked))

    def _opened(self) -> Any:
        from gristmill import Kernel

        if self.kernel is not None:
            self.kernel.close()
        os.environ["XDG_DATA_HOME"] = str(self.folder)
        self.kernel = Kernel(cache=False)
        return self.kernel

    def build(self) -> None:
        made = self._opened().recipe(self.work / "index.yaml").run().output
        assert made.n_passages == len(self.texts), made

    def open(self) -> dict[str, Query]:
        recipe = self._opened().recipe(self.work / "search.yaml")

        def query(mode: str) -> Query:
            return lambda text: [passage.text for passage in recipe.run(q=text, mode=mode).output]

        return {f"{self.name}, {mode}": query(mode) for mode in self.modes}


class GristmillWords(Gristmill):
    """The same without vectors."""

    name, making = "gristmill words", "splitter: none, vectors: false"
    modes = ("bm25",)


def wordllama() -> Any:
    """Return the embedder that all share, from this project's source."""
    sys.path[:0] = [str(ROOT / "kernel"), str(ROOT / "plugins")]
    from gristmill_plugins.wordllama import WordLlamaEmbedder

    return WordLlamaEmbedder()


class LlamaIndex(Contender):
    """VectorStoreIndex over SimpleVectorStore, its own default."""

    def __init__(self, folder: Path, texts: Sequence[str]) -> None:
        from llama_index.core.embeddings import BaseEmbedding

        super().__init__(folder, texts)
        embedder = wordllama()

        class Embedding(BaseEmbedding):  # type: ignore[misc]
            def _get_text_embedding(self, text: str) -> list[float]:
                return embedder.vectors([text])[0].tolist()  # type: ignore[no-any-return]

            def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
                return embedder.vectors(texts).tolist()  # type: ignore[no-any-return]

            def _get_query_embedding(self, query: str) -> list[float]:
                return self._get_text_embedding(query)

            async def _aget_query_embedding(self, query: str) -> list[float]:
                return self._get_text_embedding(query)

        self.embedding = Embedding(embed_batch_size=512)

    def build(self) -> None:
        from llama_index.core import VectorStoreIndex
        from llama_index.core.schema import TextNode

        nodes = [TextNode(text=text) for text in self.texts]
        index = VectorStoreIndex(nodes, embed_model=self.embedding)
        index.storage_context.persist(str(self.folder))

    def open(self) -> dict[str, Query]:
        from llama_index.core import StorageContext, load_index_from_storage

        storage = StorageContext.from_defaults(persist_dir=str(self.folder))
        retriever = load_index_from_storage(storage, embed_model=self.embedding).as_retriever(similarity_top_k=TOP_K)
        return {"LlamaIndex": lambda text: [found.node.get_content() for found in retriever.retrieve(text)]}


class LangChain(Contender):
    """FAISS, exact."""

    def __init__(self, folder: Path, texts: Sequence[str]) -> None:
        from langchain_core.embeddings import Embeddings  # type: ignore[import-not-found]

        super().__init__(folder, texts)
        embedder = wordllama()

        class Embedding(Embeddings):  # type: ignore[misc]
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return embedder.vectors(texts).tolist()  # type: ignore[no-any-return]

            def embed_query(self, text: str) -> list[float]:
                return embedder.vectors([text])[0].tolist()  # type: ignore[no-any-return]

        self.embedding = Embedding()

    def build(self) -> None:
        from langchain_community.vectorstores import FAISS  # type: ignore[import-not-found]

        FAISS.from_texts(list(self.texts), self.embedding).save_local(str(self.folder))

    def open(self) -> dict[str, Query]:
        from langchain_community.vectorstores import FAISS

        store = FAISS.load_local(str(self.folder), self.embedding, allow_dangerous_deserialization=True)
        return {
            "LangChain FAISS": lambda text: [
                document.page_content for document, _ in store.similarity_search_with_score(text, k=TOP_K)
            ]
        }


class Haystack(Contender):
    """BM25 in memory."""

    def build(self) -> None:
        from haystack import Document  # type: ignore[import-not-found]
        from haystack.document_stores.in_memory import InMemoryDocumentStore  # type: ignore[import-not-found]

        store = InMemoryDocumentStore()
        store.write_documents([Document(id=str(i), content=text) for i, text in enumerate(self.texts)])
        store.save_to_disk(str(self.folder / "store.json"))

    def open(self) -> dict[str, Query]:
        from haystack.components.retrievers.in_memory import (  # type: ignore[import-not-found]
            InMemoryBM25Retriever,
        )
        from haystack.document_stores.in_memory import InMemoryDocumentStore

        store = InMemoryDocumentStore.load_from_disk(str(self.folder / "store.json"))
        retriever = InMemoryBM25Retriever(document_store=store, top_k=TOP_K)
        return {"Haystack BM25": lambda text: [found.content for found in retriever.run(query=text)["documents"]]}


MAKERS: dict[str, type[Contender]] = {
    "gristmill": Gristmill, "gristmill words": GristmillWords, "LlamaIndex": LlamaIndex, "LangChain FAISS": LangChain,
    "Haystack BM25": Haystack,
}  # fmt: skip


def passages(data: Path | None, size: int) -> list[str]:
    """Return `size` different passages, the same in every process."""
    chance = random.Random(size)
    if data is None:
        words = [f"{chance.choice('bdfgklmnprstvw')}{chance.choice('aeiou')}{i:x}" for i in range(20_000)]
        weights = [1 / rank for rank in range(1, len(words) + 1)]
        return [" ".join(chance.choices(words, weights, k=80)) + f" {i}" for i in range(size)]
    sentences = []
    for path in sorted(data.glob("*_corpus.jsonl")):
        for line in path.open(encoding="utf-8"):
            sentences += [s for s in re.split(r"(?<=[.!?])\s+", json.loads(line)["text"]) if len(s) > 20]
    return [" ".join(chance.sample(sentences, 4)) for _ in range(size)]


def questions(data: Path | None, texts: Sequence[str], n: int) -> list[str]:
    """Return `n` questions."""
    if data is None:
        chance = random.Random(n)
        return [" ".join(chance.sample(text.split(), 8)) for text in chance.choices(texts, k=n)]
    with (data / "squad.jsonl").open(encoding="utf-8") as file:
        found = [json.loads(line)["question"] for line in file]
    return [found[i % len(found)] for i in range(n)]


def rss_mb() -> float:
    """Return the memory that this process has resident, in MB (Linux; elsewhere 0)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def serve(name: str, data: str) -> None:
    """Be one contender's worker."""
    state: dict[str, Any] = {}
    place = Path(data) if data else None

    def open_(folder: str, question: str) -> None:
        next(iter(MAKERS[name](Path(folder), []).open().values()))(question)

    def prepare(size: int, n_queries: int, folder: str) -> None:
        texts = passages(place, size)
        warm = MAKERS[name](_fresh(Path(folder) / "warm"), texts[:50])  # imports are no part of what is measured
        warm.build()
        next(iter(warm.open().values()))("warm")
        state.update(texts=texts, asked=questions(place, texts, n_queries), folder=Path(folder), n=0)

    def build() -> dict[str, Any]:
        state["n"] += 1
        before = rss_mb()
        made = MAKERS[name](_fresh(state["folder"] / f"index{state['n']}"), state["texts"])
        start, start_cpu = time.perf_counter(), time.process_time()
        made.build()
        built_s, built_cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        state["queries"] = made.open()
        for query in state["queries"].values():
            query(state["asked"][0])
        disk = sum(file.stat().st_size for file in made.folder.rglob("*") if file.is_file())
        memory_mb = rss_mb() - before
        return {"index_s": built_s, "index_cpu_s": built_cpu_s, "memory_mb": memory_mb, "disk_mb": disk / 1e6,
                "folder": str(made.folder)}  # fmt: skip

    def block(start: int, stop: int) -> dict[str, dict[str, Any]]:
        asked = state["asked"][start:stop]
        taken = {}
        for label, query in state["queries"].items():
            before = time.process_time()
            wall_ns = _peers.clock([lambda q=q, query=query: query(q) for q in asked])  # type: ignore[misc]
            taken[label] = {"wall_ns": wall_ns, "cpu_ms": (time.process_time() - before) * 1000 / len(asked)}
        return taken

    def answers(n: int) -> dict[str, list[list[str]]]:
        return {label: [list(query(q)) for q in state["asked"][:n]] for label, query in state["queries"].items()}

    _peers.serve({"prepare": prepare, "build": build, "open": open_, "block": block, "answers": answers})


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folder.parent / f"{folder.name}-documents", ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def measure(given: argparse.Namespace, size: int) -> dict[str, Any]:
    """Return every contender's numbers at one size."""
    builds: dict[str, list[dict[str, float]]] = {}
    taken: dict[str, list[int]] = {}
    cpu: dict[str, list[float]] = {}
    found: dict[str, list[list[str]]] = {}
    with ExitStack() as stack:
        workers: dict[str, _peers.Worker] = {}
        for name in given.only:
            if size > MOST.get(name, size):
                continue
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            worker = stack.enter_context(_worker(name, given.data))
            worker.call("prepare", size=size, n_queries=given.queries, folder=folder)
            workers[name] = worker
        for _ in range(max(1, min(given.builds, MOST_BUILT // size))):
            for name, worker in workers.items():
                made = worker.call("build")
                folder = made.pop("folder")
                builds.setdefault(name, []).append(made | {"open_s": _opened_s(name, given.data, folder)})
        step = given.queries // given.rounds
        for turn in range(given.rounds):
            for worker in workers.values():
                for label, times in worker.call("block", start=turn * step, stop=(turn + 1) * step).items():
                    taken.setdefault(label, []).extend(times["wall_ns"])
                    cpu.setdefault(label, []).append(times["cpu_ms"])
        for worker in workers.values():
            found |= worker.call("answers", n=50)
    return {
        "builds": builds,
        "queries": {
            label: {"p50_ms": _share(times, 50), "p99_ms": _share(times, 99), "cpu_ms": statistics.median(cpu[label])}
            for label, times in taken.items()
        },
        "agreement": {
            f"{ours} / {theirs}": statistics.mean(
                len(set(a) & set(b)) / TOP_K for a, b in zip(found[ours], found[theirs], strict=True)
            )
            for ours, others in AGAINST.items() for theirs in others if ours in found and theirs in found
        },
    }  # fmt: skip


def _worker(name: str, data: str | None) -> _peers.Worker:
    return _peers.Worker(_python(CONTENDERS[name]), Path(__file__), "--serve", name, "--data", data or "")


def _opened_s(name: str, data: str | None, folder: str) -> float:
    """Return how long a new process takes from its start to its first answer."""
    start = time.perf_counter()
    with _worker(name, data) as worker:
        worker.call("open", folder=folder, question="Where does the river rise?")
        return time.perf_counter() - start


def _share(taken_ns: Sequence[int], percent: int) -> float:
    return statistics.quantiles(taken_ns, n=100)[percent - 1] / 1e6


def _python(environment: str | None) -> Path:
    return Path(sys.executable) if environment is None else _peers.environment(environment, PEERS[environment])


def table(results: Mapping[str, Any]) -> str:
    """Return the numbers as Markdown."""
    head = (
        "| passages | | index, passages/s | a CPU s | query p50 ms | p99 ms | CPU ms | open s | memory MB | disk MB |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for size, found in results.items():
        for label, times in found["queries"].items():
            name = label.split(",")[0]
            row = {
                key: statistics.median(one[key] for one in found["builds"][name]) for key in found["builds"][name][0]
            }
            cells = [
                f"{int(size):,}",
                label,
                f"{int(size) / row['index_s']:,.0f}",
                f"{int(size) / row['index_cpu_s']:,.0f}",
            ]
            cells += [f"{times[key]:.2f}" for key in ("p50_ms", "p99_ms", "cpu_ms")]
            cells += [f"{row['open_s']:.2f}", f"{row['memory_mb']:.0f}", f"{row['disk_mb']:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(results: Mapping[str, Any]) -> str:
    """Return how many times gristmill is ahead, like with like; the median of the ratio of each round of builds."""
    head = "| passages | against | index | index CPU | query p50 | query CPU | open | same passages found |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for size, found in results.items():
        for ours, others in AGAINST.items():
            for theirs in others:
                if ours not in found["queries"] or theirs not in found["queries"]:
                    continue
                built = found["builds"][ours.split(",")[0]]
                pairs = list(zip(built, found["builds"][theirs], strict=True))
                index, index_cpu, opened = (
                    statistics.median(b[key] / a[key] for a, b in pairs) for key in ("index_s", "index_cpu_s", "open_s")
                )
                query, cpu = (
                    found["queries"][theirs][key] / found["queries"][ours][key] for key in ("p50_ms", "cpu_ms")
                )
                same = found["agreement"][f"{ours} / {theirs}"]
                lines.append(
                    f"| {int(size):,} | {theirs} ({ours.split(', ')[1]}) | {index:.2f}x | {index_cpu:.2f}x |"
                    f" {query:.2f}x | {cpu:.2f}x | {opened:.2f}x | {same:.2f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--data", help="a folder with *_corpus.jsonl and squad.jsonl; made-up words by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1500, 20_000])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--builds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--output", type=Path, default=_peers.HERE / "results" / "retrieval_speed.json")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.data or "")
        return
    started, load = time.strftime("%Y-%m-%d %H:%M:%S"), _peers.load()
    results = {str(size): measure(given, size) for size in given.sizes}
    record = {
        "started": started,
        "load_before": load,
        "load_after": _peers.load(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "data": "sentences of real corpora, recombined" if given.data else "made-up words",
        "peers": PEERS,
        "results": results,
    }
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(json.dumps(record, indent=1) + "\n")
    print(table(results), ratios(results), sep="\n\n")


if __name__ == "__main__":
    main()
