"""Gristmill's memory as a semantic-kernel vector store, and its embedders as embedding services.

A record is semantic-kernel's: its key is the id, its text field is what words are found in (the first data field that
is full-text indexed, or else the first of type str), its other data fields are metadata, and it has one vector.
Invariants: what is written here is found by `gristmill memory` and by recipes, and the other way round; vectors of two
embedders never mix; a filter is read as data and never run.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import PrivateAttr
from semantic_kernel.connectors.ai.embedding_generator_base import EmbeddingGeneratorBase
from semantic_kernel.data.vector import (
    DistanceFunction,
    GetFilteredRecordOptions,
    KernelSearchResults,
    SearchType,
    VectorSearch,
    VectorSearchOptions,
    VectorSearchResult,
    VectorStore,
    VectorStoreCollection,
    VectorStoreCollectionDefinition,
)
from semantic_kernel.exceptions import VectorStoreOperationException, VectorStoreOperationNotSupportedException

from gristmill import CollectionName, Hit, Kernel, StoredRecord, StoreQuery
from gristmill import VectorStore as Store
from gristmill.ranking import fuse

_SIMILARITIES = (DistanceFunction.DEFAULT, DistanceFunction.COSINE_SIMILARITY, DistanceFunction.DOT_PROD)
_DENSE_WEIGHT = 0.3
_CANDIDATES = 50
_MOST = 10_000


class GristmillEmbedding(EmbeddingGeneratorBase):
    """An embedder of a gristmill kernel."""

    _kernel: Any = PrivateAttr()
    _embedder: Any = PrivateAttr()

    @classmethod
    def of(cls, kernel: Kernel, name: str, embedder: Any) -> GristmillEmbedding:
        """Return the service of an embedder; nothing is loaded."""
        service = cls(ai_model_id=name, service_id=name)
        service._kernel, service._embedder = kernel, embedder
        return service

    @property
    def fingerprint(self) -> str:
        """What identifies the vector space."""
        return str(self._embedder.fingerprint)

    async def generate_embeddings(self, texts: list[str], settings: Any = None, **kwargs: Any) -> np.ndarray:
        """Return `(len(texts), dim) float32`, rows L2-normalised."""
        rows: np.ndarray = await asyncio.wrap_future(self._kernel.submit(self._embedder.embed(texts)))
        return rows

    async def generate_raw_embeddings(self, texts: list[str], settings: Any = None, **kwargs: Any) -> Any:
        """Return the same as lists."""
        return (await self.generate_embeddings(texts)).tolist()


class GristmillCollection(VectorStoreCollection[str, Any], VectorSearch[str, Any]):
    """A collection of gristmill's memory."""

    supported_key_types: ClassVar[set[str] | None] = {"str"}
    supported_search_types: ClassVar[set[SearchType]] = {SearchType.VECTOR, SearchType.KEYWORD_HYBRID}
    _store: Any = PrivateAttr()
    _name: Any = PrivateAttr()

    def __init__(
        self,
        record_type: type[Any],
        store: Store,
        name: CollectionName,
        *,
        definition: VectorStoreCollectionDefinition | None = None,
        embedding_generator: EmbeddingGeneratorBase | None = None,
    ) -> None:
        super().__init__(
            record_type=record_type,
            definition=definition,
            collection_name=name.name,
            embedding_generator=embedding_generator,
        )
        self._store, self._name = store, name

    @property
    def _text_field(self) -> str:
        fields = self.definition.data_fields
        texts = [f for f in fields if f.is_full_text_indexed] or [f for f in fields if f.type_ in ("str", None)]
        if not texts:
            raise VectorStoreOperationException("gristmill's memory keeps texts: give the record a data field of str")
        return str(texts[0].storage_name or texts[0].name)

    @property
    def _vector_field(self) -> Any:
        fields = self.definition.vector_fields
        if len(fields) > 1:
            raise VectorStoreOperationNotSupportedException(f"a record has one vector here, this has {len(fields)}")
        if fields and fields[0].distance_function not in (*_SIMILARITIES, DistanceFunction.COSINE_DISTANCE):
            raise VectorStoreOperationNotSupportedException(
                f"vectors are compared by their cosine here, not by {fields[0].distance_function}"
            )
        return fields[0] if fields else None

    def _fingerprint(self) -> str:
        field = self._vector_field
        made_by = (field.embedding_generator if field is not None else None) or self.embedding_generator
        if isinstance(made_by, GristmillEmbedding):
            return made_by.fingerprint
        return f"semantic-kernel {made_by.ai_model_id}" if made_by is not None else "semantic-kernel, given vectors"

    def _serialize_dicts_to_store_models(self, records: Sequence[dict[str, Any]], **kwargs: Any) -> Sequence[Any]:
        return records

    def _deserialize_store_models_to_dicts(self, records: Sequence[Any], **kwargs: Any) -> Sequence[dict[str, Any]]:
        return records

    def _as_dict(self, record: StoredRecord, vector: np.ndarray | None) -> dict[str, Any]:
        field = self._vector_field
        made = {self.definition.key_field_storage_name: record.id, self._text_field: record.text, **record.metadata}
        if field is not None:
            made[field.storage_name or field.name] = None if vector is None else vector.tolist()
        return made

    async def _inner_upsert(self, records: Sequence[Any], **kwargs: Any) -> Sequence[str]:
        import time

        field, key, text = self._vector_field, self.definition.key_field_storage_name, self._text_field
        place = None if field is None else field.storage_name or field.name
        kept = [
            StoredRecord(
                id=str(record[key]),
                text=str(record[text]),
                metadata={n: v for n, v in record.items() if n not in (key, text, place) and v is not None},
                created=time.time(),
            )
            for record in records
        ]
        if place is None:
            await self._store.upsert(self._name, kept, None, None)
        else:
            rows = _unit(np.asarray([record[place] for record in records], np.float32))
            await self._store.upsert(self._name, kept, rows, self._fingerprint())
        return [record.id for record in kept]

    async def _inner_get(
        self, keys: Sequence[str] | None = None, options: GetFilteredRecordOptions | None = None, **kwargs: Any
    ) -> Any:
        if keys:
            found = await self._store.read(self._name, ids=list(keys), limit=len(keys))
        elif options is not None:
            if options.order_by:
                raise VectorStoreOperationNotSupportedException("records come in the order in which they were written")
            found = await self._store.read(self._name, offset=options.skip, limit=options.top)
        else:
            return None
        return [self._as_dict(record, None) for record in found]

    async def _inner_delete(self, keys: Sequence[str], **kwargs: Any) -> None:
        await self._store.delete(self._name, list(keys))

    async def ensure_collection_exists(self, **kwargs: Any) -> None:
        """Do nothing: a collection is made by its first record."""

    async def collection_exists(self, **kwargs: Any) -> bool:
        """Whether it holds any record."""
        return self._name.name in [info.name for info in await self._store.collections(self._name.namespace)]

    async def ensure_collection_deleted(self, **kwargs: Any) -> None:
        """Forget the collection and all in it."""
        await self._store.delete(self._name, None)

    async def _inner_search(
        self,
        search_type: SearchType,
        options: VectorSearchOptions,
        values: Any | None = None,
        vector: Sequence[float | int] | None = None,
        **kwargs: Any,
    ) -> KernelSearchResults[VectorSearchResult[Any]]:
        given = vector if vector is not None else await self._generate_vector_from_values(values, options)
        if given is None:
            raise VectorStoreOperationException("a search needs values or a vector")
        hybrid = search_type == SearchType.KEYWORD_HYBRID
        where = self._where(options.filter)
        wanted = options.top + options.skip
        query = StoreQuery(
            max(_CANDIDATES, 5 * wanted) if hybrid else wanted,
            _unit(np.asarray(given, np.float32)[None])[0],
            self._fingerprint(),
            str(values) if hybrid else None,
            where,
            options.include_vectors,
        )
        hits = await self._store.search(self._name, query)
        scored = (
            fuse(hits, fusion="minmax", dense_weight=_DENSE_WEIGHT)
            if hybrid
            else [(hit, self._score(hit.dense or 0.0)) for hit in hits]
        )
        total = None
        if options.include_total_count:
            total = len(await self._store.read(self._name, where=where, limit=_MOST))
        shown = scored[options.skip : wanted]
        return KernelSearchResults(
            results=self._get_vector_search_results_from_results(shown, options), total_count=total
        )

    def _score(self, cosine: float) -> float:
        distance = self._vector_field.distance_function == DistanceFunction.COSINE_DISTANCE
        return 1 - cosine if distance else cosine

    def _get_record_from_result(self, result: tuple[Hit, float]) -> Any:
        return self._as_dict(result[0].record, result[0].vector)

    def _get_score_from_result(self, result: tuple[Hit, float]) -> float | None:
        return result[1]

    def _where(self, given: Any) -> dict[str, Any]:
        where: dict[str, Any] = {}
        for one in given if isinstance(given, list) else [given] if given else []:
            parsed = self._build_filter(one)
            for part in parsed if isinstance(parsed, list) else [parsed]:
                _add(where, part)
        return where

    def _lambda_parser(self, node: ast.AST) -> Any:
        """Return a filter as memory takes it: fields compared with values, joined by `and`."""
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            joined: dict[str, Any] = {}
            for value in node.values:
                _add(joined, self._lambda_parser(value))
            return joined
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.left, ast.Attribute):
            made = _condition(node.left.attr, node.ops[0], node.comparators[0])
            if made is not None:
                return made
        raise VectorStoreOperationNotSupportedException(
            f"a filter is `x.field == value`, `in [...]`, `>=` or `<=`, joined by `and`; this is {ast.unparse(node)!r}"
        )


def _condition(field: str, operator: ast.cmpop, value: ast.AST) -> dict[str, Any] | None:
    try:
        given = ast.literal_eval(value)
    except ValueError:
        return None
    if isinstance(operator, ast.Eq | ast.In):
        return {field: list(given) if isinstance(operator, ast.In) else given}
    if isinstance(operator, ast.GtE | ast.LtE):
        return {field: {"min" if isinstance(operator, ast.GtE) else "max": given}}
    return None


def _add(where: dict[str, Any], part: Mapping[str, Any]) -> None:
    for field, value in part.items():
        before = where.get(field)
        if isinstance(before, dict) and isinstance(value, dict) and not before.keys() & value.keys():
            where[field] = {**before, **value}
        elif field in where:
            raise VectorStoreOperationNotSupportedException(f"the filter asks twice for {field!r}")
        else:
            where[field] = value


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms == 0, 1, norms), np.float32)


class GristmillVectorStore(VectorStore):
    """The collections of one namespace of gristmill's memory."""

    _store: Any = PrivateAttr()
    _namespace: str = PrivateAttr()

    @classmethod
    def of(
        cls, store: Store, namespace: str, embedding_generator: EmbeddingGeneratorBase | None
    ) -> GristmillVectorStore:
        """Return the store; nothing is opened."""
        made = cls(embedding_generator=embedding_generator)
        made._store, made._namespace = store, namespace
        return made

    def get_collection(
        self,
        record_type: type[Any],
        *,
        definition: VectorStoreCollectionDefinition | None = None,
        collection_name: str | None = None,
        embedding_generator: EmbeddingGeneratorBase | None = None,
        **kwargs: Any,
    ) -> GristmillCollection:
        """Return a collection; it is made by its first record."""
        name = collection_name or getattr(definition, "collection_name", None)
        if not name:
            raise VectorStoreOperationException("a collection has a name: collection_name=...")
        return GristmillCollection(
            record_type,
            self._store,
            CollectionName(self._namespace, name),
            definition=definition,
            embedding_generator=embedding_generator or self.embedding_generator,
        )

    async def list_collection_names(self, **kwargs: Any) -> Sequence[str]:
        """Return the names of the collections."""
        return [info.name for info in await self._store.collections(self._namespace)]
