"""A semantic-kernel collection as a store of gristmill's memory.

The other direction of `_vectors`: the key is the id, the first text field (full-text indexed ones before others) is
the text, every other data field is metadata, and the vector is ours. What semantic-kernel cannot promise is refused and
not imitated: searching by words, namespaces, expiry, metadata without a field, new vectors all at once. Records are
listed by a search, since its in-memory collection lists none. Invariants: a filter is built of field names that the
definition has and of literals, and what comes back is looked at again; where a collection has the field `embedder`,
vectors of two embedders never meet.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from semantic_kernel.data.vector import (
    DistanceFunction,
    VectorStore,
    VectorStoreCollection,
    VectorStoreCollectionDefinition,
    VectorStoreField,
)
from semantic_kernel.exceptions import KernelException

from gristmill import (
    CollectionInfo,
    CollectionName,
    Hit,
    PluginError,
    StoredRecord,
    StoreError,
    StoreQuery,
    UsageError,
)
from gristmill.stores import Condition, conditions_of, facts_of, same_dim, same_embedder, unit_rows

Collection: TypeAlias = VectorStoreCollection[Any, Any]
_EMBEDDER = "embedder"
_AT_ONCE = 1000
_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}


class SemanticKernelStore:
    """A `gristmill.VectorStore` over semantic-kernel collections; one that can only do what they can.

    Args:
        collections: name to collection; or a function that returns the collection of a name, made if need be.

    Use it as `Kernel(memory=SemanticKernelStore({"notes": collection}))`. Recall with `mode: dense`.
    """

    def __init__(self, collections: Mapping[str, Collection] | Callable[[str], Collection]) -> None:
        self._held: dict[str, Collection] = {} if callable(collections) else dict(collections)
        self._make = collections if callable(collections) else None

    @classmethod
    def of_connector(cls, connector: str, dim: int, fields: Mapping[str, str]) -> SemanticKernelStore:
        """Return a store over a connector's collections, made as they are first written.

        Raises:
            UsageError: semantic-kernel has no such connector, or a field means nothing.
            PluginError: the connector's library is missing, or its settings are.
        """
        definition = _definition(dim, fields)
        made = _connected(connector)
        return cls(lambda name: made.get_collection(dict, definition=definition, collection_name=name))

    def _find(self, name: CollectionName, *, make: bool = False) -> _Shape | None:
        if name.namespace != "default":
            raise UsageError(
                f"a semantic-kernel collection has no namespaces, this is {name.namespace!r}",
                hint="leave the namespace out, or use another store",
            )
        if name.name not in self._held and self._make is not None:
            with _explained():
                self._held[name.name] = self._make(name.name)
        held = self._held.get(name.name)
        if held is None and make:
            raise UsageError(
                f"there is no semantic-kernel collection {name.name!r}", hint=f"there is: {', '.join(self._held)}"
            )
        return None if held is None else _Shape(name, held)

    async def upsert(
        self,
        collection: CollectionName,
        records: Sequence[StoredRecord],
        vectors: np.ndarray | None,
        fingerprint: str | None,
    ) -> None:
        """Write records, as wholly as the connector does; see VectorStore.

        Raises:
            UsageError: a record does not fit the fields, expires, or has no vector.
        """
        if not records:
            return
        shape = self._find(collection, make=True)
        assert shape is not None
        if vectors is None or fingerprint is None:
            raise UsageError(f"the semantic-kernel collection {collection.name!r} keeps vectors: an embedder is needed")
        rows = unit_rows(vectors, len(records))
        same_dim(collection, shape.dim, int(rows.shape[1]))
        made = [shape.as_dict(record, row, fingerprint) for record, row in zip(records, rows, strict=True)]
        with _explained():
            await shape.collection.ensure_collection_exists()
            there = await shape.page(0, 1)
            if there and (kept := there[0].get(_EMBEDDER)) is not None:
                same_embedder(collection, kept, fingerprint)
            await shape.collection.upsert(made)

    async def search(self, collection: CollectionName, query: StoreQuery) -> list[Hit]:
        """Return what is nearest to the query's vector; see VectorStore.

        Raises:
            UsageError: words are to be matched, which semantic-kernel cannot promise.
        """
        conditions = conditions_of(query.where)
        shape = self._find(collection)
        if query.text is not None:
            raise UsageError("semantic-kernel collections are searched by meaning only", hint="recall with mode: dense")
        if shape is None or query.vector is None or not await shape.exists():
            return []
        same_dim(collection, shape.dim, len(query.vector))
        with _explained():
            found = await shape.collection.search(
                vector=query.vector.tolist(), vector_property_name=shape.vector, top=query.n,
                filter=shape.filter(conditions), include_vectors=True,
            )  # fmt: skip
            records = [result.record async for result in found.results]
        for record in records:
            if record.get(_EMBEDDER) is not None:
                same_embedder(collection, record[_EMBEDDER], query.fingerprint)
        hits = [shape.hit(record, query) for record in records]
        return [hit for hit in hits if _holds(hit.record, conditions)]

    async def read(
        self,
        collection: CollectionName,
        *,
        where: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        offset: int = 0,
        limit: int = 100,
    ) -> list[StoredRecord]:
        """Return records, in no promised order; see VectorStore."""
        conditions = conditions_of(where or {})
        shape = self._find(collection)
        if shape is None or not await shape.exists():
            return []
        found = await shape.all() if ids is None else await shape.of(ids)
        records = [record for record in map(shape.record, found) if _holds(record, conditions)]
        return records[offset : offset + limit]

    async def delete(self, collection: CollectionName, ids: Sequence[str] | None) -> int:
        """Forget records, or the whole collection; see VectorStore."""
        shape = self._find(collection)
        if shape is None or not await shape.exists():
            return 0
        there = await shape.all() if ids is None else await shape.of(ids)
        with _explained():
            if ids is None:
                await shape.collection.ensure_collection_deleted()
            elif there:
                await shape.collection.delete([record[shape.key] for record in there])
        return len(there)

    async def collections(self, namespace: str) -> list[CollectionInfo]:
        """Return the collections that were given, or used since the store was made, by name."""
        infos = []
        for name in sorted(self._held) if namespace == "default" else []:
            shape = self._find(CollectionName(namespace, name))
            if shape is None or not await shape.exists():
                continue
            records = await shape.all()
            by = records[0].get(_EMBEDDER) if records else None
            infos.append(
                CollectionInfo(namespace=namespace, name=name, n_records=len(records), embedder=by, dim=shape.dim)
            )
        return infos

    async def re_embed(self, collection: CollectionName, embed: Any, fingerprint: str) -> int:
        """Refuse: semantic-kernel has no way to change all vectors at once.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "a semantic-kernel collection cannot change its vectors all at once",
            hint=f"gristmill memory export {collection.name} FILE, forget --all, and import it with the new embedder",
        )

    async def close(self) -> None:
        """Let go of the collections that this store has made; those that were given are their owner's."""
        if self._make is not None:
            self._held.clear()


class _Shape:
    """A collection and which of its fields is what."""

    def __init__(self, name: CollectionName, collection: Collection) -> None:
        self.name, self.collection = name, collection
        definition = collection.definition
        data = definition.data_fields
        texts = [f for f in data if f.is_full_text_indexed] or [f for f in data if f.type_ in ("str", None)]
        if not texts or len(definition.vector_fields) != 1:
            raise UsageError(
                f"the semantic-kernel collection {name.name!r} has {len(texts)} text fields and"
                f" {len(definition.vector_fields)} vectors",
                hint="memory needs a data field of str for the text, and one vector",
            )
        self.key, self.text = definition.key_name, texts[0].name
        self.vector: str = definition.vector_fields[0].name
        self.dim: int = definition.vector_fields[0].dimensions
        self.has_embedder = any(f.name == _EMBEDDER for f in data)
        self.fields = {f.name: f.type_ for f in data if f.name not in (self.text, _EMBEDDER)}

    def as_dict(self, record: StoredRecord, row: np.ndarray, fingerprint: str) -> Any:
        if record.expires is not None:
            raise UsageError("a record of a semantic-kernel collection cannot expire")
        if record.metadata.keys() != self.fields.keys():
            raise UsageError(
                f"metadata of the semantic-kernel collection {self.name.name!r} has the fields"
                f" {sorted(self.fields)}, these are {sorted(record.metadata)}"
            )
        for key, value in record.metadata.items():
            allowed = _TYPES.get(str(self.fields[key]))
            if allowed is not None and type(value) not in allowed:
                raise UsageError(f"the field {key!r} takes {self.fields[key]}, this is {value!r}")
        embedder = {_EMBEDDER: fingerprint} if self.has_embedder else {}
        made = {self.key: record.id, self.text: record.text, self.vector: row.tolist(), **record.metadata, **embedder}
        kind = self.collection.record_type
        return made if kind is dict else kind(**made)

    def record(self, given: Mapping[str, Any]) -> StoredRecord:
        metadata = {name: given.get(name) for name in self.fields}
        return StoredRecord(id=str(given[self.key]), text=str(given[self.text]), metadata=metadata)

    def hit(self, given: Any, query: StoreQuery) -> Hit:
        data = _data(given)
        row = np.asarray(data[self.vector], np.float32)
        dense = None if query.vector is None else float(row @ query.vector) / (float(np.linalg.norm(row)) or 1.0)
        return Hit(self.record(data), dense, None, row if query.with_vectors else None)

    def filter(self, conditions: Sequence[Condition]) -> str | None:
        """Return what semantic-kernel filters by; every value in it is a literal, every name a field's."""
        tests = []
        for condition in conditions:
            if condition.key not in self.fields:
                raise UsageError(
                    f"the semantic-kernel collection {self.name.name!r} has no field {condition.key!r}",
                    hint=f"it has: {', '.join(self.fields) or 'none'}",
                )
            ends = [(sign, end) for sign, end in ((">=", condition.low), ("<=", condition.high)) if end is not None]
            tests += [f"x.{condition.key} {sign} {value!r}" for sign, (_, value) in ends]
            if not ends:
                values = [
                    bool(value) if kind == 1 else None if kind == 0 else value for kind, value in condition.values
                ]
                tests.append(f"x.{condition.key} in {values!r}")
        return "lambda x: " + " and ".join(tests) if tests else None

    async def exists(self) -> bool:
        with _explained():
            return bool(await self.collection.collection_exists())

    async def page(self, skip: int, top: int) -> list[Any]:
        found = await self.collection.search(
            vector=[1.0] + [0.0] * (self.dim - 1), vector_property_name=self.vector, top=top, skip=skip
        )
        return [_data(result.record) async for result in found.results]

    async def all(self) -> list[Any]:
        found: list[Any] = []
        with _explained():
            while part := await self.page(len(found), _AT_ONCE):
                found += part
        return found

    async def of(self, ids: Sequence[str]) -> list[Any]:
        with _explained():
            found = await self.collection.get(keys=list(dict.fromkeys(ids))) if ids else None
        return [] if found is None else [_data(one) for one in (found if isinstance(found, Sequence) else [found])]


def _data(record: Any) -> dict[str, Any]:
    return dict(record) if isinstance(record, Mapping) else dict(vars(record))


def _holds(record: StoredRecord, conditions: Sequence[Condition]) -> bool:
    """Whether the metadata is what memory means by a filter: semantic-kernel takes 1 and true for the same."""
    for condition in conditions:
        facts = {(kind, value) for key, kind, value in facts_of(record.metadata) if key == condition.key}
        if condition.is_range:
            low, high = condition.low, condition.high
            inside = [v for k, v in facts if k == condition.kind and (low is None or v >= low[1])
                      and (high is None or v <= high[1])]  # fmt: skip
            if not inside:
                return False
        elif not facts & set(condition.values):
            return False
    return True


def _definition(dim: int, fields: Mapping[str, str]) -> VectorStoreCollectionDefinition:
    taken = {"id", "text", "vector", _EMBEDDER}
    for name, kind in fields.items():
        if not name.isidentifier() or name in taken or kind not in _TYPES:
            raise UsageError(
                f"the field {name!r} cannot be {kind!r}",
                hint=f"a name that is not {', '.join(sorted(taken))}, and one of {', '.join(_TYPES)}",
            )
    similarity = DistanceFunction.COSINE_SIMILARITY
    return VectorStoreCollectionDefinition(
        fields=[
            VectorStoreField("key", name="id", type="str"),
            VectorStoreField("data", name="text", type="str", is_full_text_indexed=True),
            VectorStoreField("data", name=_EMBEDDER, type="str"),
            *(VectorStoreField("data", name=name, type=kind, is_indexed=True) for name, kind in fields.items()),
            VectorStoreField("vector", name="vector", type="float", dimensions=dim, distance_function=similarity),
        ]
    )


def _connected(connector: str) -> VectorStore:
    """Return the store of a module of semantic-kernel's connectors; its settings come from the environment."""
    place = f"semantic_kernel.connectors.{connector}"
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name == place:
            raise UsageError(f"semantic-kernel has no connector {connector!r}", hint="such as in_memory") from error
        raise PluginError(f"semantic-kernel's {connector} needs {error.name}") from error
    except ImportError as error:
        raise PluginError(f"semantic-kernel's {connector} cannot be imported: {error}") from error
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass)
             if issubclass(kind, VectorStore) and kind.__module__ == place]  # fmt: skip
    if not kinds:
        raise UsageError(f"semantic-kernel's {connector} has no vector store", hint="such as in_memory")
    try:
        return kinds[0]()
    except (KernelException, TypeError, ValueError) as error:
        raise PluginError(f"semantic-kernel's {connector}: {error}") from error


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except KernelException as error:
        cause = error.__cause__ or error
        raise StoreError(f"semantic-kernel: {error}: {cause}", store="semantic-kernel", cause="io") from error
