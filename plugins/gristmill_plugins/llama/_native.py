"""llama.cpp's C API with every pointer checked: a model, a context, a grammar.

It is imported only in the engine process, holds no policy, and is called from one thread. Invariant: no call
reaches native code with a null pointer or an id outside the vocabulary, for native code answers those by
ending the process.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as _llama_cpp

from gristmill import ModelError

C: Any = _llama_cpp
"""llama.cpp's C functions; their stubs know Python's arrays but not the pointers into numpy's that we hand over."""
LOG_LEVEL_WARN, LOG_LEVEL_ERROR = 3, 4
Pooling = Literal["mean", "rank"]


class NativeLog:
    """Sends llama.cpp's warnings and errors to standard error, keeps the last, and drops the rest.

    It must outlive every model: a callback that Python collects crashes the next load.
    """

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=3)
        self._callback = C.llama_log_callback(self._write)
        C.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _write(self, level: int, text: bytes, _: Any) -> None:
        if level in (LOG_LEVEL_WARN, LOG_LEVEL_ERROR):
            line = text.decode("utf-8", "replace")
            sys.stderr.write(line)
            sys.stderr.flush()
            if level == LOG_LEVEL_ERROR and line.strip():
                self._errors.append(line.strip())

    def explain(self, error: ModelError) -> ModelError:
        """Return an error with what llama.cpp last complained about, if anything."""
        if not self._errors:
            return error
        return ModelError(
            f"{error.message}: {' / '.join(self._errors)}", model=error.model, cause=error.cause, hint=error.hint
        )


@dataclass(frozen=True, slots=True)
class LoadParams:
    """How to load a model; fields are llama.cpp's own, see `llama.h`."""

    path: str
    n_ctx: int
    n_seq_max: int
    n_threads: int
    gpu_layers: int | None = None
    """None: all of them where the build can use a GPU."""
    n_batch: int = 0
    """Tokens decoded at once; 0: 2048 on a GPU, 256 on a processor, where more is no faster and slow to cancel."""
    use_mmap: bool = True
    use_extra_bufts: bool = True
    flash_attention: bool | None = None
    """None: llama.cpp decides."""
    cache_type: str = "f16"
    split: Sequence[float] = ()
    """Each GPU's share of the model; empty: by their free memory."""

    def settled(self) -> LoadParams:
        """Return the same with every default filled in from what this build can do."""
        can_offload = bool(C.llama_supports_gpu_offload())
        layers = (-1 if can_offload else 0) if self.gpu_layers is None else self.gpu_layers
        on_gpu = can_offload and layers != 0
        # Each sequence may want a row of a batch: with a smaller batch llama.cpp ends the process.
        n_batch = max(self.n_batch or (2048 if on_gpu else 256), self.n_seq_max)
        return replace(self, gpu_layers=layers, n_batch=n_batch)


class Vocabulary:
    """The tokens of a model: text to ids and back."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self._pieces: dict[int, bytes] = {}
        self.size: int = C.llama_vocab_n_tokens(pointer)
        self.bos: int = C.llama_vocab_bos(pointer)
        self.eos: int = C.llama_vocab_eos(pointer)
        self.sep: int = C.llama_vocab_sep(pointer)
        self.adds_bos: bool = C.llama_vocab_get_add_bos(pointer)
        self.adds_eos: bool = C.llama_vocab_get_add_eos(pointer)
        self.adds_sep: bool = C.llama_vocab_get_add_sep(pointer)
        self.is_spm: bool = C.llama_vocab_type(pointer) == C.LLAMA_VOCAB_TYPE_SPM

    @property
    def pointer(self) -> Any:
        return self._pointer

    @cached_property
    def attributes(self) -> npt.NDArray[np.int32]:
        """`(size,) int32`: the attribute flags of each token."""
        return np.fromiter((C.llama_vocab_get_attr(self._pointer, i) for i in range(self.size)), np.int32, self.size)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        control = np.flatnonzero(self.attributes != C.LLAMA_TOKEN_ATTR_NORMAL)
        return frozenset(int(i) for i in control if C.llama_vocab_is_eog(self._pointer, int(i)))

    @cached_property
    def control(self) -> frozenset[int]:
        """The tokens that text must never become."""
        return frozenset(np.flatnonzero(self.attributes & C.LLAMA_TOKEN_ATTR_CONTROL).tolist())

    @cached_property
    def special(self) -> frozenset[int]:
        """The tokens that a template may write out: control tokens, and the one for unknown text."""
        flags = C.LLAMA_TOKEN_ATTR_CONTROL | C.LLAMA_TOKEN_ATTR_UNKNOWN
        return frozenset(np.flatnonzero(self.attributes & flags).tolist())

    def flags(self, token: int) -> int:
        """Return the attribute flags of one token."""
        return int(self.attributes[token])

    def user_defined(self) -> list[int]:
        """Return the tokens that llama.cpp finds in any text."""
        ids: list[int] = np.flatnonzero(self.attributes & C.LLAMA_TOKEN_ATTR_USER_DEFINED).tolist()
        return ids

    def text(self, token: int) -> str:
        """Return the text under which the vocabulary lists a token; "" for one outside it."""
        if not 0 <= token < self.size:
            return ""
        return (C.llama_vocab_get_text(self._pointer, token) or b"").decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """Return the bytes a token stands for in an answer; control tokens stand for none."""
        if (known := self._pieces.get(token)) is not None:
            return known
        buffer = ctypes.create_string_buffer(64)
        size = C.llama_token_to_piece(self._pointer, token, buffer, 64, 0, False)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = C.llama_token_to_piece(self._pointer, token, buffer, -size, 0, False)
        self._pieces[token] = piece = buffer.raw[: max(size, 0)]
        return piece

    def tokenize(self, text: str, *, special: bool = False, add_ends: bool = False) -> list[int]:
        """Return the ids of `text`; control tokens are recognised only with `special`."""
        data = text.encode()
        room = len(data) + 8
        ids = (C.llama_token * room)()
        count = C.llama_tokenize(self._pointer, data, len(data), ids, room, add_ends, special)
        if count < 0:
            ids = (C.llama_token * -count)()
            count = C.llama_tokenize(self._pointer, data, len(data), ids, -count, add_ends, special)
        return list(ids[: max(count, 0)])


class NativeModel:
    """Weights, vocabulary and adapters, loaded from files."""

    def __init__(self, params: LoadParams, on_progress: Callable[[float], None]) -> None:
        self.path = params.path

        def progress(fraction: float, _: Any) -> bool:
            on_progress(fraction)
            return True

        self._progress = C.llama_progress_callback(progress)
        native = C.llama_model_default_params()
        native.n_gpu_layers = params.gpu_layers
        native.load_mode = C.LLAMA_LOAD_MODE_MMAP if params.use_mmap else C.LLAMA_LOAD_MODE_NONE
        native.use_extra_bufts = params.use_extra_bufts
        native.progress_callback = self._progress
        if params.split:
            self._split = (ctypes.c_float * C.llama_max_devices())(*params.split)
            native.tensor_split = ctypes.cast(self._split, ctypes.POINTER(ctypes.c_float))
        self.pointer = C.llama_model_load_from_file(params.path.encode(), native)
        if not bool(self.pointer):
            raise ModelError(f"llama.cpp cannot load {params.path!r}", model=params.path, cause="load")
        vocabulary = C.llama_model_get_vocab(self.pointer)
        if not bool(vocabulary):
            raise ModelError(f"{params.path!r} has no vocabulary", model=params.path, cause="file")
        self.vocabulary = Vocabulary(vocabulary)
        self.n_embd: int = C.llama_model_n_embd_out(self.pointer)
        self.n_ctx_train: int = C.llama_model_n_ctx_train(self.pointer)
        self.n_classes: int = C.llama_model_n_cls_out(self.pointer)
        """How many numbers a classification head gives; one, as a rule, is how relevant a text is."""
        self.has_encoder: bool = C.llama_model_has_encoder(self.pointer)
        self.can_split: bool = not (C.llama_model_is_recurrent(self.pointer) or C.llama_model_is_hybrid(self.pointer))
        """Whether a sequence can be cut anywhere; recurrent state can only be kept whole."""

    def load_adapter(self, name: str, path: str) -> Any:
        """Load a LoRA adapter beside the weights; return its pointer."""
        pointer = C.llama_adapter_lora_init(self.pointer, path.encode())
        if not bool(pointer):
            raise ModelError(f"llama.cpp cannot load adapter {name!r} from {path!r}", model=path, cause="load")
        return pointer


class NativeContext:
    """The key-value cache and the decoder; sequences live in one cache (`kv_unified`)."""

    def __init__(
        self, model: NativeModel, params: LoadParams, *, pooled: bool = False, pooling: Pooling | None = None
    ) -> None:
        native = C.llama_context_default_params()
        native.n_ctx = params.n_ctx
        native.n_batch = params.n_batch
        native.n_ubatch = params.n_batch if pooled else min(512, params.n_batch)
        native.n_seq_max = params.n_seq_max
        native.n_threads = native.n_threads_batch = params.n_threads
        native.kv_unified = True
        native.swa_full = True
        native.embeddings = pooled
        if pooling is not None:
            native.pooling_type = {"mean": C.LLAMA_POOLING_TYPE_MEAN, "rank": C.LLAMA_POOLING_TYPE_RANK}[pooling]
        if params.flash_attention is not None:
            native.flash_attn_type = int(params.flash_attention)
        native.type_k = native.type_v = {"f16": 1, "f32": 0, "q8_0": 8}[params.cache_type]
        self.pointer = C.llama_init_from_model(model.pointer, native)
        if not bool(self.pointer):
            raise ModelError(
                f"llama.cpp cannot make a context of {params.n_ctx} tokens for {model.path!r}",
                model=model.path,
                cause="load",
                hint="a smaller context_tokens or cache_tokens needs less memory",
            )
        self._memory = C.llama_get_memory(self.pointer)
        self.can_remember = bool(self._memory)
        """Whether there is a key-value cache: an encoder has none, and cannot write."""
        pools: int = C.llama_pooling_type(self.pointer)
        self.pools_nothing = pools == C.LLAMA_POOLING_TYPE_NONE
        self._n_pooled = model.n_classes if pools == C.LLAMA_POOLING_TYPE_RANK else model.n_embd
        """How many numbers there are for a sequence; to read more is to read somebody else's memory."""
        self._n_vocab = model.vocabulary.size
        self.n_ctx: int = C.llama_n_ctx(self.pointer)
        self.n_batch: int = C.llama_n_batch(self.pointer)
        self.n_seq_max = params.n_seq_max
        self._make_batch(self.n_batch)

    def _make_batch(self, size: int) -> None:
        """Lay out one batch that every step refills, as arrays that native code reads in place."""
        self._tokens = np.zeros(size, np.int32)
        self._positions = np.zeros(size, np.int32)
        self._seqs = np.zeros(size, np.int32)
        self._wants = np.zeros(size, np.int8)
        self._ones = np.ones(size, np.int32)
        row = ctypes.POINTER(ctypes.c_int32)
        base = self._seqs.ctypes.data
        self._seq_rows = (row * size)(*(ctypes.cast(base + 4 * i, row) for i in range(size)))
        self._batch = C.llama_batch()
        self._batch.token = self._tokens.ctypes.data_as(row)
        self._batch.pos = self._positions.ctypes.data_as(row)
        self._batch.n_seq_id = self._ones.ctypes.data_as(row)
        self._batch.seq_id = ctypes.cast(self._seq_rows, ctypes.POINTER(row))
        self._batch.logits = self._wants.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], seqs: Sequence[int], wants: Sequence[bool]
    ) -> int:
        """Decode one batch; return llama.cpp's code: 0 done, 1 no room in the cache, else failed."""
        size = len(tokens)
        self._tokens[:size], self._positions[:size] = tokens, positions
        self._seqs[:size], self._wants[:size] = seqs, wants
        self._batch.n_tokens = size
        return int(C.llama_decode(self.pointer, self._batch))

    def logits(self, n_rows: int) -> npt.NDArray[np.float32]:
        """Return `(n_rows, n_vocab) float32`, valid until the next decode: the wanted rows, in batch order."""
        pointer = C.llama_get_logits(self.pointer)
        if not bool(pointer):
            raise RuntimeError("llama.cpp returned no logits")
        return np.ctypeslib.as_array(pointer, shape=(n_rows, self._n_vocab))

    def copy(self, source: int, target: int, size: int) -> None:
        """Let `target` begin with the first `size` tokens of `source`; nothing is computed."""
        C.llama_memory_seq_cp(self._memory, source, target, 0, size)

    def truncate(self, seq: int, size: int) -> bool:
        """Keep the first `size` tokens of a sequence; False where the model cannot cut there."""
        return bool(C.llama_memory_seq_rm(self._memory, seq, size, -1))

    def save(self, seq: int) -> bytes:
        """Return the cells of a sequence."""
        size = C.llama_state_seq_get_size(self.pointer, seq)
        buffer = (ctypes.c_uint8 * size)()
        return bytes(memoryview(buffer)[: C.llama_state_seq_get_data(self.pointer, buffer, size, seq)])

    def restore(self, seq: int, cells: bytes) -> bool:
        """Fill an empty sequence with saved cells; False where they do not fit."""
        buffer = (ctypes.c_uint8 * len(cells)).from_buffer_copy(cells)
        return bool(C.llama_state_seq_set_data(self.pointer, buffer, len(cells), seq) == len(cells))

    def clear(self) -> None:
        """Forget every sequence."""
        if self.can_remember:
            C.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Free the native context; nothing else may be called after it."""
        C.llama_free(self.pointer)
        self.pointer = None

    def apply_adapters(self, adapters: Sequence[tuple[Any, float]]) -> None:
        """Apply exactly these adapters, pointers with scales, to all that is decoded from now on."""
        pointers = (C.llama_adapter_lora_p_ctypes * len(adapters))(*(pointer for pointer, _ in adapters))
        scales = (ctypes.c_float * len(adapters))(*(scale for _, scale in adapters))
        if code := C.llama_set_adapters_lora(self.pointer, pointers, len(adapters), scales):
            raise RuntimeError(f"llama.cpp refused the adapters with code {code}")

    def pooled_row(self, seq: int) -> npt.NDArray[np.float32]:
        """Return a copy of what was pooled of a sequence, float32: `(n_embd,)`, or `(n_classes,)` of a reranker."""
        pointer = C.llama_get_embeddings_seq(self.pointer, seq)
        if not bool(pointer):
            raise RuntimeError("llama.cpp returned nothing pooled")
        return np.ctypeslib.as_array(pointer, shape=(self._n_pooled,)).copy()


class Grammar:
    """The state of one answer under a GBNF grammar."""

    def __init__(self, vocabulary: Vocabulary, source: str, *, model: str) -> None:
        self._pointer = C.llama_sampler_init_grammar(vocabulary.pointer, source.encode(), b"root")
        if not bool(self._pointer):
            raise ModelError("llama.cpp cannot read the grammar of the schema", model=model, cause="request")

    def allowed(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Tell for each id whether it may come next."""
        data = np.zeros(ids.size, TOKEN_DATA)
        data["id"] = ids
        array = C.llama_token_data_array(
            data=data.ctypes.data_as(C.llama_token_data_p), size=ids.size, selected=-1, sorted=False
        )
        C.llama_sampler_apply(self._pointer, ctypes.byref(array))
        return np.asarray(data["logit"] == 0.0)

    def accept(self, token: int) -> None:
        """Take a token that is allowed; native code aborts on one that is not."""
        C.llama_sampler_accept(self._pointer, token)

    def close(self) -> None:
        """Free the native state; idempotent."""
        if bool(self._pointer):
            C.llama_sampler_free(self._pointer)
            self._pointer = None


TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
