"""The prompt cache: what goes in comes out exactly or not at all, whatever is on the disk."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import diskcache
import pytest

from gristmill._cache import MISS, CacheWarning, KeyPrefix, PromptCache, _api, _disk, _file, _verify, cache_key
from gristmill._errors import UsageError

KEY = "a" * 64
DATABASE_FILES = {"cache.db", "cache.db-wal", "cache.db-shm"}
VALUE = {"text": "Twenty-five days.", "finish_reason": "stop", "usage": {"prompt_tokens": 600}}

REQUEST: dict[str, Any] = {
    "model": "sha256:11",
    "template": "sha256:22",
    "adapters": {"spam": 0.5, "law": 1.0},
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many days?\r\n"}],
    "sampling": {"temperature": 0.7, "top_k": 40, "stop": ["\n"], "max_tokens": 512},
    "seed": 0,
    "sample": 3,
    "schema": None,
    "versions": {"gristmill": "0.1.0", "llama_cpp": "0.3.36"},
}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[PromptCache]:
    with PromptCache(tmp_path / "cache") as opened:
        yield opened


def database(cache: PromptCache) -> Path:
    return cache.directory / "cache.db"


def sql(cache: PromptCache, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database(cache))) as connection, connection:
        return connection.execute(statement, parameters).fetchall()


@contextmanager
def warned() -> Iterator[list[str]]:
    """Collect what the cache warns of, after its directory; complete once the block has ended."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield texts
    texts += [str(item.message).split(": ", 1)[1] for item in record if issubclass(item.category, CacheWarning)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    start = time.time()

    def move(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: start + seconds)

    return move


# --- keys


def leaves(material: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = (
        material.items() if isinstance(material, dict) else enumerate(material) if isinstance(material, list) else ()
    )
    for name, item in items:
        yield (*path, name)
        yield from leaves(item, (*path, name))


@pytest.mark.parametrize("path", list(leaves(REQUEST)), ids=lambda path: ".".join(map(str, path)))
def test_every_field_of_a_request_takes_part_in_its_key(path: tuple[Any, ...], cache: PromptCache) -> None:
    changed = json.loads(json.dumps(REQUEST))
    holder = changed
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = "something else"
    cache.set(cache_key(REQUEST), VALUE)
    assert cache.get(cache_key(changed)) is MISS
    assert cache.get(cache_key(json.loads(json.dumps(REQUEST)))) == VALUE


def test_a_field_more_or_less_is_another_key() -> None:
    assert cache_key(REQUEST | {"tenant": None}) != cache_key(REQUEST)
    assert cache_key({name: REQUEST[name] for name in REQUEST if name != "schema"}) != cache_key(REQUEST)


def test_the_order_of_fields_is_no_part_of_a_key() -> None:
    assert cache_key(dict(reversed(REQUEST.items()))) == cache_key(REQUEST)


def test_values_that_python_calls_equal_are_different_keys() -> None:
    values = [1, 1.0, True, "1", None, [1], {"x": 1}, 0, 0.0, False, "", [], {}]
    assert len({cache_key({"x": value}) for value in values}) == len(values)


def test_a_character_and_its_two_surrogates_are_different_keys() -> None:
    texts = ["\U0001f600", "\ud83d\ude00", "\ud83d", "\\ud83d", "?", "\ufffd"]
    assert len({cache_key({"x": text}) for text in texts}) == len(texts)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: 2, "a": 3}, b"bytes"])
def test_a_key_of_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^a cache key cannot be made: .*(\n.*finite numbers)"):
        cache_key({"x": value})


def test_a_key_of_material_that_holds_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["x"] = loop
    with pytest.raises(UsageError, match="cannot be made"):
        cache_key(loop)


def test_a_prefix_gives_each_sample_its_own_key_and_the_same_one_each_time() -> None:
    prefix = KeyPrefix(REQUEST)
    keys = [prefix.key({"sample": i}) for i in range(8)]
    assert len(set(keys)) == 8
    assert keys == [KeyPrefix(REQUEST).key({"sample": i}) for i in range(8)]
    assert all(len(key) == 64 for key in keys)


def test_extending_a_prefix_leaves_it_as_it_was() -> None:
    prefix = KeyPrefix({"model": "m"})
    before = prefix.key({"n": 1})
    longer = prefix.extend({"prompt": "p"})
    assert longer.key({"n": 1}) != before == prefix.key({"n": 1})


def test_where_a_prefix_ends_is_part_of_the_key() -> None:
    ways = [
        cache_key({"a": 1, "b": 2}),
        KeyPrefix({"a": 1}).key({"b": 2}),
        KeyPrefix({"a": 1, "b": 2}).key({}),
        KeyPrefix({"a": 1}).extend({"b": 2}).key({}),
        KeyPrefix({"a": '1}\n{"b":2'}).key({}),
    ]
    assert len(set(ways)) == len(ways)


# --- values


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nb\rc\n", "\x00", "a\x00b", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\ud83d", "\ude00\ud83d",
        "\ud83d\ude00", "\u2028\x85\ufeff\ufffe", "", None, False, 0, -0.0, 1e308, 2**80, [], {}, [None],  # noqa: PT014
        {"text": "a\r\nb", "logprobs": [{"token": "\ud83d", "logprob": -0.125}]}, "x" * 1_000_000,
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_a_value_comes_back_exactly(cache: PromptCache, value: Any) -> None:
    assert cache.set(KEY, value)
    with PromptCache(cache.directory) as other:
        found = other.get(KEY)
    assert repr(found) == repr(value)
    assert {path.name for path in cache.directory.iterdir()} <= DATABASE_FILES


def test_a_stored_none_is_a_hit_and_a_miss_is_not_none(cache: PromptCache) -> None:
    cache.set(KEY, None)
    assert cache.get(KEY) is None
    assert cache.get("b" * 64) is MISS
    assert not MISS
    assert repr(MISS) == "MISS"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), object(), {"x": {1, 2}}, b"bytes"])
def test_a_value_that_is_not_json_is_refused(cache: PromptCache, value: Any) -> None:
    with pytest.raises(UsageError, match=r"cannot be kept in the cache: .*\n.*finite numbers"):
        cache.set(KEY, value)
    assert cache.get(KEY) is MISS


def test_a_second_value_replaces_the_first(cache: PromptCache) -> None:
    cache.set(KEY, 1)
    cache.set(KEY, 2)
    assert cache.get(KEY) == 2
    assert cache.stats().entries == 1


def test_many_come_back_in_the_order_asked(cache: PromptCache) -> None:
    keys = [cache_key({"sample": i}) for i in range(20)]
    assert cache.set_many((key, i) for i, key in enumerate(keys[:10]))
    assert cache.get_many(keys[::-1]) == [MISS] * 10 + list(range(9, -1, -1))
    assert cache.get_many([keys[0], keys[0]]) == [0, 0]
    assert cache.get_many([]) == []


def test_many_are_stored_all_or_none(cache: PromptCache) -> None:
    with pytest.raises(UsageError):
        cache.set_many([(KEY, 1), ("b" * 64, object())])
    assert cache.get(KEY) is MISS


def test_limits_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="size_limit_bytes must be positive, not 0"):
        PromptCache(tmp_path, size_limit_bytes=0)
    with pytest.raises(UsageError, match="expire_s must be positive, or None to keep entries, not -1"):
        PromptCache(tmp_path, expire_s=-1)


def test_making_a_cache_touches_nothing_and_a_miss_makes_nothing(tmp_path: Path) -> None:
    with PromptCache(tmp_path / "a" / "b") as cache:
        assert cache.get(KEY) is MISS
        assert cache.stats().entries == 0
        assert cache.verify().ok
        assert cache.clear() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_hit_imports_neither_diskcache_nor_pickle(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    code = (
        "import sys; from gristmill._cache import PromptCache\n"
        f"with PromptCache({str(cache.directory)!r}) as cache: assert cache.get({KEY!r})\n"
        "print(*(name for name in ('diskcache', 'pickle', 'asyncio') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_directory_and_file_are_private(cache: PromptCache) -> None:
    cache.directory.mkdir(mode=0o755)
    cache.set(KEY, VALUE)
    assert stat.S_IMODE(cache.directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) & 0o077 for path in cache.directory.iterdir()] == [0, 0, 0]


@pytest.mark.parametrize("name", ["with space", "per%20cent", "question?mode=ro", "hash#", "$HOME", "ünïcödé", "~"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    with PromptCache(tmp_path / name) as cache:
        assert cache.set(KEY, VALUE)
        assert cache.get(KEY) == VALUE
    assert (tmp_path / name / "cache.db").exists()


def test_a_closed_cache_opens_again(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    cache.close()
    cache.close()
    assert cache.get(KEY) == VALUE


def test_threads_may_share_a_cache(cache: PromptCache) -> None:
    failures: list[str] = []

    def work(worker: int) -> None:
        for i in range(50):
            key = cache_key({"worker": worker, "i": i})
            if not cache.set(key, [worker, i]) or cache.get(key) != [worker, i]:
                failures.append(key)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cache.stats().entries == 400


# --- hostile files


class Bomb:
    """Unpickling one makes a directory, which shows that code ran."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def plant(cache: PromptCache, kind: str, ran: Path) -> None:
    """Put a pickle where stock diskcache finds it: in the value, in a file, or in the key."""
    cache.set("b" * 64, "healthy")
    bomb = pickle.dumps(Bomb(ran))
    row: dict[str, Any] = {"key": KEY, "raw": 1, "mode": 4, "filename": None, "value": bomb}
    if kind == "file":
        (cache.directory / "x.val").write_bytes(bomb)
        row |= {"filename": "x.val", "value": None}
    elif kind == "key":
        row |= {"key": bomb, "raw": 0, "mode": 1, "value": "text"}
    columns = ", ".join([*row, "store_time", "access_time", "expire_time"])
    sql(cache, f"INSERT INTO Cache ({columns}) VALUES (?, ?, ?, ?, ?, 0, 0, NULL)", *row.values())


ATTACKS = ["value", "file", "key"]


@pytest.mark.parametrize("kind", ATTACKS)
def test_the_planted_pickles_do_run_code_in_stock_diskcache(cache: PromptCache, tmp_path: Path, kind: str) -> None:
    plant(cache, kind, tmp_path / "ran")
    cache.close()
    with diskcache.Cache(str(cache.directory)) as stock:  # type: ignore[no-untyped-call]
        assert list(stock) if kind == "key" else stock.get(KEY, default=0) is None
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_planted_pickle_never_runs(tmp_path: Path, kind: str) -> None:
    with PromptCache(tmp_path / "cache", size_limit_bytes=1, expire_s=1000) as cache:
        plant(cache, kind, tmp_path / "ran")
        cache.close()
        with warned():
            assert cache.get(KEY) is MISS
        cache.stats()
        report = cache.verify()
        plant(cache, kind, tmp_path / "ran")
        cache.set(KEY, "written over it")  # and evicted, since the limit is a byte
        plant(cache, kind, tmp_path / "ran")
        sql(cache, "UPDATE Cache SET expire_time = 1")
        cache.set("c" * 64, "expires it")
        cache.clear()
    assert sum(report.damaged.values()) == 1
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_our_own_row_layout_is_not_json(cache: PromptCache, tmp_path: Path) -> None:
    cache.set(KEY, VALUE)
    body = pickle.dumps(Bomb(tmp_path / "ran"), protocol=0)
    data = _file.FORMAT + _file._digest(KEY, body) + body
    sql(cache, "UPDATE Cache SET value = ?", data)
    with pytest.warns(CacheWarning, match="an entry is damaged"):
        assert cache.get(KEY) is MISS
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["read", "overwrite", "evict", "expire", "verify", "clear"])
def test_a_file_named_in_a_row_is_neither_read_nor_deleted(tmp_path: Path, how: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with PromptCache(tmp_path / "cache", size_limit_bytes=1 if how == "evict" else 2**30) as cache:
        cache.set(KEY, VALUE)
        for name in ("../victim", str(victim)):
            sql(cache, "UPDATE Cache SET filename = ?, mode = 2, value = NULL", name)
            if how == "read":
                with warned():
                    assert cache.get(KEY) is MISS
            elif how == "expire":
                sql(cache, "UPDATE Cache SET expire_time = 1")
            elif how == "verify":
                cache.verify()
            elif how == "clear":
                cache.clear()
            cache.set(KEY if how == "overwrite" else "b" * 64, VALUE)
    assert victim.read_text() == "precious"


def test_the_disk_class_refuses_what_is_not_ours() -> None:
    disk = _disk.EntryDisk("/nowhere", min_file_size=0)  # type: ignore[no-untyped-call]
    with pytest.raises(TypeError, match="a cache key is text, not tuple"):
        disk.put(("a", 1))
    with pytest.raises(OSError, match="the row's key is not text"):
        disk.get(pickle.dumps(1), 0)
    with pytest.raises(TypeError, match="an entry is packed bytes, not dict"):
        disk.store({}, False)
    with pytest.raises(TypeError, match="an entry is packed bytes"):
        disk.store(b"", True)
    rows: list[tuple[Any, ...]] = [
        (4, None, b"x"),
        (0, None, b"x"),
        (100, "../x", b"x"),
        (100, None, "x"),
        (3, "x", None),
    ]
    for mode, filename, value in rows:
        with pytest.raises(OSError, match="not an entry of this cache"):
            disk.fetch(mode, filename, value, False)
    with pytest.raises(OSError, match="never a file of its own"):
        disk.filename()
    assert disk.get("k", 1) == "k"
    assert disk.fetch(100, None, b"x", False) == b"x"
    assert disk.store(b"x" * 10_000_000, False) == (0, 100, None, b"x" * 10_000_000)


def test_the_settings_we_know_are_those_of_diskcache() -> None:
    assert {*diskcache.DEFAULT_SETTINGS, *diskcache.core.METADATA} == _file.KNOWN_SETTINGS


@pytest.mark.parametrize("name", ["get", "_disk", "disk_nonsense", "sqlite_writable_schema"])
def test_a_file_with_a_setting_that_diskcache_would_obey_is_moved_aside(cache: PromptCache, name: str) -> None:
    cache.set(KEY, VALUE)
    cache.close()
    sql(cache, "INSERT INTO Settings VALUES (?, 1)", name)
    with pytest.warns(CacheWarning, match=f"the file is damaged .it holds the settings {name}"):
        assert cache.get(KEY) is MISS
    assert cache.set(KEY, VALUE)
    assert cache.get(KEY) == VALUE
    assert len(cache.stats().quarantined) == 1


# --- damaged entries


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]


DAMAGE: dict[str, Callable[[bytes], Any]] = {
    "a bit of the version": lambda data: flipped(data, 2),
    "a bit of the checksum": lambda data: flipped(data, 9),
    "a bit of the text": lambda data: flipped(data, 40),
    "the last bit": lambda data: flipped(data, len(data) - 1),
    "the tail is missing": lambda data: data[:-1],
    "only the header": lambda data: data[:19],
    "half the header": lambda data: data[:7],
    "nothing": lambda _: b"",
    "zeros at the end": lambda data: data[:-20] + bytes(20),
    "null": lambda _: None,
    "a number": lambda _: 7,
    "text": lambda _: '{"text": "forged"}',
    "one more byte": lambda data: data + b" ",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_a_miss_counted_and_moved_aside_by_verify(
    cache: PromptCache, damage: Callable[[bytes], Any]
) -> None:
    cache.set_many([(KEY, VALUE), ("b" * 64, "healthy")])
    ((data,),) = sql(cache, "SELECT value FROM Cache WHERE key = ?", KEY)
    sql(cache, "UPDATE Cache SET value = ? WHERE key = ?", damage(data), KEY)
    with warned() as texts:
        assert cache.get(KEY) is MISS
        assert cache.get(KEY) is MISS
    (text,) = texts
    assert re.fullmatch(r"an entry is damaged and was not used \(.+\); `gristmill cache verify` removes it", text)
    assert cache.stats().damaged == 2
    report = cache.verify()
    assert (report.checked, sum(report.damaged.values()), report.problem, report.ok) == (2, 1, None, False)
    assert report.quarantine is not None
    kept = [json.loads(line) for line in report.quarantine.read_text().splitlines()]
    assert [row["reason"] for row in kept] == list(report.damaged)
    assert cache.verify().ok
    assert cache.get("b" * 64) == "healthy"
    assert cache.stats().quarantined == (report.quarantine,)


def test_an_entry_under_another_key_is_damage(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    sql(cache, "UPDATE Cache SET key = ?", "b" * 64)
    with pytest.warns(CacheWarning, match="the checksum does not match"):
        assert cache.get("b" * 64) is MISS


def test_text_that_is_not_utf8_is_damage_of_one_entry(cache: PromptCache) -> None:
    cache.set_many([(KEY, VALUE), ("b" * 64, "healthy")])
    sql(cache, "UPDATE Cache SET value = CAST(x'67ff' AS TEXT) WHERE key = ?", KEY)
    with pytest.warns(CacheWarning, match="another format or version"):
        assert cache.get_many([KEY, "b" * 64]) == [MISS, "healthy"]


def test_json_nested_too_deeply_is_damage(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    body = b"[" * 100_000 + b"]" * 100_000
    sql(cache, "UPDATE Cache SET value = ?", _file.FORMAT + _file._digest(KEY, body) + body)
    with pytest.warns(CacheWarning, match="nested too deeply"):
        assert cache.get(KEY) is MISS


def test_a_row_with_nonsense_in_every_column_is_a_miss(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    sql(cache, "UPDATE Cache SET access_time = 'x', store_time = x'00', tag = 1e400, size = 'y', access_count = NULL")
    assert cache.get(KEY) == VALUE
    sql(cache, "UPDATE Cache SET mode = 'x', expire_time = 'never'")
    with pytest.warns(CacheWarning, match="not an entry of this cache"):
        assert cache.get(KEY) is MISS
    assert cache.set(KEY, VALUE)
    assert cache.get(KEY) == VALUE


def test_an_entry_made_good_meanwhile_is_not_moved_aside(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    with closing(_file.connect(str(database(cache)), mode="rw", timeout_s=1)) as connection:
        connection.text_factory = bytes
        target = _verify._quarantine_rows(connection, [1, 99], str(database(cache)))
    assert target.read_text() == ""
    assert cache.get(KEY) == VALUE


def test_damage_stays_when_it_cannot_be_moved_aside(cache: PromptCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.set(KEY, VALUE)
    sql(cache, "UPDATE Cache SET value = x'00'")

    def refuse(*_: Any) -> Any:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(_verify, "_printable", refuse)
        report = cache.verify()
    assert report.problem == "no space left"
    assert sql(cache, "SELECT count(*) FROM Cache") == [(1,)]


# --- damaged files


def corrupt_root(data: bytes) -> bytes:
    """Overwrite the root page of the table of entries, which every lookup passes."""
    return data[:4096] + bytes(range(256)) * (len(data[4096:]) // 256)


FILES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda data: os.urandom(len(data)),
    "a web page": lambda _: b"<!DOCTYPE html><title>404</title>" * 100,
    "only the magic": lambda data: data[:16],
    "half a page": lambda data: data[:2048],
    "one page of many": lambda data: data[:4096],
    "all pages but the first are noise": corrupt_root,
    "ten bytes": lambda _: b"SQLite for",
}


@pytest.mark.parametrize("damage", FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("first_use", ["get", "set", "stats"])
def test_a_damaged_file_is_moved_aside_with_one_warning_and_a_new_one_begun(
    cache: PromptCache, damage: Callable[[bytes], bytes], first_use: str
) -> None:
    cache.set_many((cache_key({"i": i}), "x" * 500) for i in range(100))
    cache.close()
    bad = damage(database(cache).read_bytes())
    database(cache).write_bytes(bad)
    with warned() as texts:
        if first_use == "get":
            assert cache.get(cache_key({"i": 7})) is MISS
        elif first_use == "stats":
            cache.stats()
        assert cache.set(KEY, VALUE)
        assert cache.get(KEY) == VALUE
    (text,) = texts
    assert re.fullmatch(r"the file is damaged \(.+\); it is now cache.db.bad-\S+Z and a new one is begun", text)
    (quarantined,) = cache.stats().quarantined
    assert quarantined.read_bytes() == bad
    assert cache.verify().ok


def test_a_file_of_no_length_is_an_empty_cache(cache: PromptCache) -> None:
    cache.directory.mkdir()
    database(cache).touch()
    assert cache.get(KEY) is MISS
    assert cache.verify() == _verify.VerifyReport()
    assert cache.set(KEY, VALUE)
    assert cache.get(KEY) == VALUE


@pytest.mark.parametrize("tables", ["Users (id)", "Cache (id)", "Cache (key, raw, mode, filename, value)"])
def test_another_programs_database_is_moved_aside_and_kept(cache: PromptCache, tables: str) -> None:
    cache.directory.mkdir()
    sql(cache, f"CREATE TABLE {tables}")
    content = database(cache).read_bytes()
    with pytest.warns(CacheWarning, match="the file is damaged"):
        assert cache.set(KEY, VALUE)
    assert cache.get(KEY) == VALUE
    assert [path.read_bytes() for path in cache.stats().quarantined] == [content]


def test_a_file_that_another_process_is_still_making_is_a_miss(cache: PromptCache) -> None:
    cache.directory.mkdir()
    sql(cache, "CREATE TABLE Settings (key TEXT NOT NULL UNIQUE, value)")
    assert cache.get(KEY) is MISS
    assert cache.set(KEY, VALUE)
    assert cache.get(KEY) == VALUE


def test_verify_finds_a_damaged_index_that_lookups_pass_over(cache: PromptCache) -> None:
    cache.set_many((cache_key({"i": i}), i) for i in range(50))
    cache.close()
    # An index over another expression: every row's entry in it is wrong, and every page is well formed.
    with closing(sqlite3.connect(database(cache))) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, '(access_time)', '(store_time + 1)')"
            " WHERE name = 'Cache_access_time'"
        )
    report = cache.verify()
    assert report.problem is not None
    assert "Cache_access_time" in report.problem
    assert report.quarantine is not None
    assert report.quarantine.exists()
    assert cache.verify().ok


def test_verify_moves_garbage_aside(cache: PromptCache) -> None:
    cache.directory.mkdir()
    database(cache).write_bytes(b"garbage" * 1000)
    report = cache.verify()
    assert report.problem == "file is not a database"
    assert cache.stats().quarantined == (report.quarantine,)


def test_verify_reports_and_leaves_everything_when_read_only(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    cache.close()
    sql(cache, "UPDATE Cache SET value = x'00'")
    with PromptCache(cache.directory, read_only=True) as reader:
        report = reader.verify()
        assert sum(report.damaged.values()) == 1
        assert report.quarantine is None
        database(cache).write_bytes(b"garbage" * 1000)
        report = reader.verify()
        assert report.problem == "file is not a database"
        assert report.quarantine is None
        with pytest.warns(CacheWarning, match="it cannot be read .file is not a database.; answers are computed"):
            assert reader.get(KEY) is MISS
    assert database(cache).read_bytes() == b"garbage" * 1000


def test_a_file_already_replaced_by_another_process_is_not_moved(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    device, inode = _file.identify(str(database(cache)))
    assert _file.move_aside(str(database(cache)), (device, inode + 1)) is None
    assert _file.move_aside(str(cache.directory / "gone.db"), (device, inode)) is None
    assert cache.get(KEY) == VALUE


def test_a_damaged_file_that_cannot_be_moved_is_a_miss(cache: PromptCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.directory.mkdir()
    database(cache).write_bytes(b"garbage" * 1000)

    def refuse(*_: Any) -> Any:
        raise OSError("not permitted")

    monkeypatch.setattr(os, "rename", refuse)
    with warned() as texts:
        assert cache.get(KEY) is MISS
        assert cache.get(KEY) is MISS
        assert not cache.set(KEY, VALUE)
        assert not cache.set(KEY, VALUE)
        assert cache.verify().quarantine is None
    assert texts == [
        "it cannot be read (file is not a database); answers are computed",
        "it cannot be written (file is not a database); new answers are not kept",
    ]


def test_the_log_of_a_damaged_file_moves_with_it(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    assert Path(f"{database(cache)}-wal").exists()
    target = _file.move_aside(str(database(cache)), _file.identify(str(database(cache))))
    assert {path.name for path in cache.directory.iterdir()} == {target.name, f"{target.name}-wal"}  # type: ignore[union-attr]


def test_a_file_cut_short_under_an_open_cache_does_not_kill_the_process(cache: PromptCache) -> None:
    code = (
        "import os, sys, warnings; from gristmill._cache import *\n"
        "warnings.simplefilter('ignore')\n"
        f"cache = PromptCache({str(cache.directory)!r})\n"
        "keys = [cache_key({'i': i}) for i in range(3000)]\n"
        "cache.set_many((key, 'x' * 2000) for key in keys); cache.close(); cache.get_many(keys[:5])\n"
        "os.truncate(cache.directory / 'cache.db', 100_000)\n"
        "found = cache.get_many(keys); assert MISS in found\n"
        "assert cache.set(keys[0], 1) and cache.get(keys[0]) == 1; cache.close(); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "alive", "")


# --- a directory that goes away, a disk that is full, a medium that is read-only


def test_a_directory_deleted_under_an_open_cache_is_made_again(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    assert cache.get(KEY) == VALUE
    for path in cache.directory.iterdir():
        path.unlink()
    cache.directory.rmdir()
    assert cache.get(KEY) is MISS
    assert cache.set(KEY, "new")
    assert cache.get(KEY) == "new"
    with PromptCache(cache.directory) as other:
        assert other.get(KEY) == "new"


def test_what_another_process_put_in_its_place_is_used_at_once(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    with PromptCache(cache.directory) as other:
        assert other.clear() == 1
        other.set(KEY, "newer")
    assert cache.get(KEY) == "newer"
    assert cache.set("b" * 64, 1)
    assert cache.get_many([KEY, "b" * 64]) == ["newer", 1]


@pytest.mark.parametrize("in_the_way", ["the directory is a file", "the file is a directory"])
def test_a_place_that_cannot_be_used_is_a_miss_and_one_warning_each_way(cache: PromptCache, in_the_way: str) -> None:
    if in_the_way == "the directory is a file":
        cache.directory.touch()
    else:
        database(cache).mkdir(parents=True)
    with warned() as texts:
        for _ in range(3):
            assert cache.get(KEY) is MISS
            assert not cache.set(KEY, VALUE)
            assert cache.stats().entries == 0
    assert [text.split(" (")[0] for text in texts] == ["it cannot be read", "it cannot be written"]
    assert cache.verify().problem


def run_child(code: str, *arguments: str) -> list[str]:
    """Run code that prints what it found, one thing a line; warnings included."""
    prelude = "import os, resource, signal, sys, warnings\nfrom gristmill._cache import *\n"
    prelude += "import gristmill._cache._disk, gristmill._cache._verify\n"
    prelude += "warnings.showwarning = lambda message, *_: print(str(message).split(': ', 1)[1])\n"
    prelude += "warnings.simplefilter('always')\n"
    command = [sys.executable, "-c", prelude + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def test_a_full_disk_is_one_warning_and_what_was_kept_stays(cache: PromptCache) -> None:
    code = (
        "cache = PromptCache(sys.argv[1]); keys = [cache_key({'i': i}) for i in range(400)]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (400_000,) * 2)\n"
        "kept = [key for key in keys if cache.set(key, key * 40)]\n"
        "print(0 < len(kept) < 400, cache.get_many(kept) == [key * 40 for key in kept])\n"
        "print(sum(value is not MISS for value in cache.get_many(keys)) == len(kept)); cache.close()\n"
    )
    first, *facts = run_child(code, str(cache.directory))
    assert first == "it cannot be written (disk I/O error); new answers are not kept" or "full" in first
    assert facts == ["True True", "True"]
    assert cache.verify().ok
    assert cache.clear() > 0


def test_clearing_works_on_a_full_disk(cache: PromptCache) -> None:
    cache.set_many((cache_key({"i": i}), "x" * 2000) for i in range(200))
    code = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "cache = PromptCache(sys.argv[1]); n = cache.clear()\n"
        "os.write(2, str(n).encode())"
    )
    command = [sys.executable, "-c", f"import os, resource, signal, sys\nfrom gristmill._cache import *\n{code}"]
    done = subprocess.run([*command, str(cache.directory)], capture_output=True, text=True, check=True)
    assert done.stderr == "0"
    assert not database(cache).exists()
    assert cache.get(cache_key({"i": 1})) is MISS


def test_writing_is_tried_again_after_a_while(cache: PromptCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "WRITE_TIMEOUT_S", 0.01)
    cache.set(KEY, VALUE)
    cache.close()
    with closing(sqlite3.connect(database(cache), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.warns(CacheWarning, match="it cannot be written .database is locked.; new answers are not"):
            assert not cache.set("b" * 64, 1)
        assert not cache.set("b" * 64, 1)
        assert cache.get(KEY) == VALUE
        other.execute("ROLLBACK")
    assert not cache.set("b" * 64, 1)
    later = time.monotonic() + _file.RETRY_AFTER_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert cache.set("b" * 64, 1)


def test_a_lock_met_inside_an_open_cache_keeps_its_reason(cache: PromptCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "WRITE_TIMEOUT_S", 0.01)
    cache.set(KEY, VALUE)
    with closing(sqlite3.connect(database(cache), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.warns(CacheWarning, match="it cannot be written .database is locked."):
            assert not cache.set("b" * 64, 1)


def test_a_locked_file_is_a_miss_and_is_read_again_at_once(cache: PromptCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_api, "READ_TIMEOUT_S", 0.01)
    cache.set(KEY, VALUE)
    cache.close()
    with closing(sqlite3.connect(database(cache), isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.warns(CacheWarning, match="it cannot be read .database is locked.; answers are computed"):
            assert cache.get(KEY) is MISS
    assert cache.get(KEY) == VALUE


def test_a_cache_opened_read_only_answers_and_keeps_nothing(cache: PromptCache, clock: Callable[[float], None]) -> None:
    cache.set(KEY, VALUE)
    cache.close()
    before = database(cache).read_bytes()
    clock(100_000)
    with PromptCache(cache.directory, read_only=True) as reader:
        assert reader.get(KEY) == VALUE
        assert not reader.set("b" * 64, 1)
        assert reader.get("b" * 64) is MISS
        assert reader.stats().entries == 1
        with pytest.raises(UsageError, match="opened read-only and cannot be cleared"):
            reader.clear()
    assert database(cache).read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_a_read_only_directory_still_answers_with_one_warning() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with PromptCache(Path(folder) / "cache") as cache:
            cache.set(KEY, VALUE)
        # Root ignores file modes, so the child becomes nobody once everything is imported.
        os.chmod(cache.directory / "cache.db", 0o444)
        os.chmod(cache.directory, 0o555)
        code = (
            "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
            "cache = PromptCache(sys.argv[1])\n"
            "for _ in range(3): print(cache.get('a' * 64) is not MISS, cache.set('b' * 64, 1))\n"
            "print(cache.verify().ok)\n"
            "try: cache.clear()\n"
            "except Exception as error: print(error)\n"
        )
        lines = run_child(code, str(cache.directory))
        os.chmod(cache.directory, 0o700)
    assert "it cannot be written" in lines[0]
    assert "new answers are not kept" in lines[0]
    assert lines[1:5] == ["True False"] * 3 + ["True"]
    assert "cannot be cleared: [Errno 13] Permission denied" in lines[5]


# --- expiry, eviction, the clock


def test_an_entry_expires(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with PromptCache(tmp_path / "cache", expire_s=100) as cache:
        clock(0)
        cache.set(KEY, VALUE)
        clock(99)
        assert cache.get(KEY) == VALUE
        clock(101)
        assert cache.get(KEY) is MISS
        cache.set("b" * 64, 1)  # which also drops what has expired
        assert cache.stats().entries == 1


def test_entries_without_expiry_stay(cache: PromptCache, clock: Callable[[float], None]) -> None:
    cache.set(KEY, VALUE)
    clock(1e9)
    assert cache.get(KEY) == VALUE


def test_a_clock_moved_back_breaks_nothing(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with PromptCache(tmp_path / "cache", expire_s=100, size_limit_bytes=200_000) as cache:
        clock(0)
        cache.set(KEY, VALUE)
        clock(-1_000_000)
        assert cache.get(KEY) == VALUE
        for i in range(200):
            assert cache.set(cache_key({"i": i}), "x" * 3000)
        assert cache.get(cache_key({"i": 199})) == "x" * 3000
        assert cache.verify().ok
        clock(-2_000_000_000)
        assert cache.set(KEY, "new")
        assert cache.get(KEY) == "new"


def test_the_size_limit_holds_and_the_newest_stay(tmp_path: Path) -> None:
    with PromptCache(tmp_path / "cache", size_limit_bytes=1_000_000) as cache:
        keys = [cache_key({"i": i}) for i in range(600)]
        for key in keys:
            assert cache.set(key, "x" * 5000)
        found = [value is not MISS for value in cache.get_many(keys)]
        cache.close()
        assert database(cache).stat().st_size < 1_100_000
    assert not any(found[:300])
    assert all(found[-100:])


def test_a_batch_evicts_no_more_than_it_needs(tmp_path: Path) -> None:
    with PromptCache(tmp_path / "cache", size_limit_bytes=1_000_000) as cache:
        keys = [cache_key({"i": i}) for i in range(300)]
        cache.set_many((key, "x" * 5000) for key in keys)
        assert 150 < cache.stats().entries < 200
        assert cache.get(keys[-1]) is not MISS


def test_an_entry_in_use_outlives_one_that_is_not(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with PromptCache(tmp_path / "cache", size_limit_bytes=1_000_000) as cache:
        clock(0)
        cache.set_many([(KEY, "used"), ("b" * 64, "unused")])
        for hour in range(1, 6):
            clock(hour * 4000)
            assert cache.get(KEY) == "used"
            cache.close()  # notes the use
            cache.set_many((cache_key({"hour": hour, "i": i}), "x" * 5000) for i in range(60))
        assert cache.get_many([KEY, "b" * 64]) == ["used", MISS]


def test_uses_are_noted_in_batches_and_only_once_an_hour(
    cache: PromptCache, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    monkeypatch.setattr(_file, "touch", lambda _, times: batches.append(len(times)))
    keys = [cache_key({"i": i}) for i in range(_api.MOST_TOUCHED + 1)]
    cache.set_many((key, 0) for key in keys)
    cache.get_many(keys)
    clock(4000)
    cache.get_many(keys)
    assert batches == [_api.MOST_TOUCHED]
    cache.close()
    assert batches == [_api.MOST_TOUCHED, 1]


def test_a_use_that_cannot_be_noted_is_no_error(cache: PromptCache, clock: Callable[[float], None]) -> None:
    cache.set(KEY, VALUE)
    clock(4000)
    assert cache.get(KEY) == VALUE
    with closing(sqlite3.connect(database(cache), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        cache.close()
        other.execute("ROLLBACK")
    assert cache.get(KEY) == VALUE


# --- stats, clear


def test_stats_count_entries_and_what_this_process_asked(cache: PromptCache, clock: Callable[[float], None]) -> None:
    clock(0)
    start = time.time()
    cache.set(KEY, "x" * 10_000)
    clock(60)
    cache.set("b" * 64, 1)
    cache.get_many([KEY, "b" * 64, "c" * 64])
    stats = cache.stats()
    assert (stats.entries, stats.hits, stats.misses, stats.damaged, stats.quarantined) == (2, 2, 1, 0, ())
    assert stats.size_bytes > 10_000
    assert stats.oldest == pytest.approx(start)
    assert stats.newest == pytest.approx(start + 60)


def test_no_setting_leaves_the_process_open_to_its_file(cache: PromptCache) -> None:
    cache.set(KEY, VALUE)
    store = cache._own_sides()[1].current()
    assert store is not None
    with closing(_file.connect(str(database(cache)), mode="ro", timeout_s=1)) as reader:
        for connection in (store._con, reader):
            assert connection.execute("PRAGMA mmap_size").fetchall() == [(0,)]
            assert connection.execute("PRAGMA trusted_schema").fetchall() == [(0,)]


def test_clear_gives_the_space_back_and_other_open_caches_go_on(cache: PromptCache) -> None:
    cache.set_many((cache_key({"i": i}), "x" * 5000) for i in range(100))
    with PromptCache(cache.directory) as other:
        assert other.get(cache_key({"i": 5})) == "x" * 5000
        assert cache.clear() == 100
        assert other.get(cache_key({"i": 5})) is MISS
        assert other.set(KEY, VALUE)
    assert cache.get(KEY) == VALUE
    assert cache.stats().size_bytes < 100_000


def test_a_corrupt_file_can_be_cleared(cache: PromptCache) -> None:
    cache.directory.mkdir()
    database(cache).write_bytes(b"garbage" * 1000)
    assert cache.clear() == 0
    assert list(cache.directory.iterdir()) == []


def test_clear_deletes_entries_and_what_was_moved_aside(cache: PromptCache) -> None:
    cache.set_many([(KEY, 1), ("b" * 64, 2)])
    (cache.directory / "cache.db.bad-20260101T000000.000000Z").write_text("old damage")
    (cache.directory / "notes.txt").write_text("not ours")
    assert cache.clear() == 2
    assert {path.name for path in cache.directory.iterdir()} == {"notes.txt", *DATABASE_FILES}
    assert cache.get(KEY) is MISS
    assert cache.set(KEY, 3)
    assert cache.get(KEY) == 3


def test_clear_says_when_it_cannot(cache: PromptCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.directory.mkdir()
    database(cache).write_bytes(b"garbage" * 1000)

    def refuse(*_: Any) -> Any:
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(UsageError, match="cannot be cleared: not yours"):
        cache.clear()


# --- computing once


def gather(*tasks: Any) -> list[Any]:
    async def run() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*(task() for task in tasks), return_exceptions=True), 60)

    return asyncio.run(run())


class Computer:
    """Computes slowly, and counts."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.calls = 0

    async def __call__(self) -> Any:
        self.calls += 1
        result = self.results.pop(0)
        await asyncio.sleep(0.01)
        if isinstance(result, Exception):
            raise result
        return result


def test_the_same_request_at_the_same_time_is_computed_once(cache: PromptCache) -> None:
    compute = Computer("answer")
    answers = gather(*[lambda: cache.get_or_compute(KEY, compute)] * 5)
    assert [answer.value for answer in answers] == ["answer"] * 5
    assert [answer.cached for answer in answers] == [False, True, True, True, True]
    assert compute.calls == 1
    assert cache.get(KEY) == "answer"
    assert gather(lambda: cache.get_or_compute(KEY, compute)) == [("answer", True)]


def test_an_error_reaches_all_who_wait_and_is_not_stored(cache: PromptCache) -> None:
    compute = Computer(ValueError("model died"), "answer")
    answers = gather(*[lambda: cache.get_or_compute(KEY, compute)] * 3)
    assert [str(answer) for answer in answers] == ["model died"] * 3
    assert compute.calls == 1
    assert cache.get(KEY) is MISS
    assert gather(lambda: cache.get_or_compute(KEY, compute)) == [("answer", False)]


def test_when_the_computing_task_is_cancelled_one_of_the_others_takes_over(cache: PromptCache) -> None:
    compute = Computer("lost", "answer")

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(cache.get_or_compute(KEY, compute)) for _ in range(4)]
        await asyncio.sleep(0.001)
        tasks[0].cancel()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    first, *others = asyncio.run(run())
    assert isinstance(first, asyncio.CancelledError)
    assert [answer.value for answer in others] == ["answer"] * 3
    assert sorted(answer.cached for answer in others) == [False, True, True]
    assert compute.calls == 2


def test_a_task_that_waits_can_be_cancelled_without_disturbing_the_computation(cache: PromptCache) -> None:
    compute = Computer("answer")

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(cache.get_or_compute(KEY, compute)) for _ in range(3)]
        await asyncio.sleep(0.001)
        tasks[1].cancel()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    first, second, third = asyncio.run(run())
    assert isinstance(second, asyncio.CancelledError)
    assert (first, third) == (("answer", False), ("answer", True))


def test_when_all_are_cancelled_nothing_is_left_in_the_way(cache: PromptCache) -> None:
    compute = Computer("lost", "answer")

    async def run() -> Any:
        tasks = [asyncio.create_task(cache.get_or_compute(KEY, compute)) for _ in range(3)]
        await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await cache.get_or_compute(KEY, compute)

    assert asyncio.run(run()) == ("answer", False)


def test_only_the_samples_that_are_missing_are_computed_and_in_one_call(cache: PromptCache) -> None:
    asked: list[list[str]] = []

    async def compute(keys: Any) -> list[str]:
        asked.append(list(keys))
        return [f"answer {key}" for key in keys]

    samples = [str(i) for i in range(12)]
    asyncio.run(cache.get_or_compute_many(samples[:8], compute))
    answers = asyncio.run(cache.get_or_compute_many([*samples, "3", "11"], compute))
    assert asked == [samples[:8], samples[8:]]
    assert [answer.value for answer in answers] == [f"answer {key}" for key in [*samples, "3", "11"]]
    assert [answer.cached for answer in answers] == [True] * 8 + [False] * 4 + [True, False]


def test_batches_that_overlap_finish_and_compute_each_key_once(cache: PromptCache) -> None:
    computed: list[str] = []

    async def compute(keys: Any) -> list[str]:
        await asyncio.sleep(0.005)
        computed.extend(keys)
        return list(keys)

    answers = gather(
        lambda: cache.get_or_compute_many(["a", "b"], compute),
        lambda: cache.get_or_compute_many(["b", "c"], compute),
        lambda: cache.get_or_compute_many(["c", "a"], compute),
    )
    assert [[answer.value for answer in batch] for batch in answers] == [["a", "b"], ["b", "c"], ["c", "a"]]
    assert sorted(computed) == ["a", "b", "c"]


def test_what_is_not_to_be_kept_is_returned_and_not_stored(cache: PromptCache) -> None:
    compute = Computer({"finish_reason": "length"}, {"finish_reason": "stop"})

    def whole(value: Any) -> bool:
        return bool(value["finish_reason"] == "stop")

    for expected in ("length", "stop"):
        answer = asyncio.run(cache.get_or_compute(KEY, compute, keep=whole))
        assert (answer.value["finish_reason"], answer.cached) == (expected, False)
    assert cache.get(KEY) == {"finish_reason": "stop"}


def test_a_wrong_number_of_values_is_an_error_and_stores_nothing(cache: PromptCache) -> None:
    async def compute(_: Any) -> list[str]:
        return ["only one"]

    with pytest.raises(UsageError, match="2 values were to be computed and 1 came back"):
        asyncio.run(cache.get_or_compute_many([KEY, "b" * 64], compute))
    assert cache.get(KEY) is MISS


def test_two_event_loops_do_not_wait_for_each_other(cache: PromptCache) -> None:
    compute = Computer("one", "two")
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(asyncio.run(cache.get_or_compute(KEY, compute))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert {answer.value for answer in answers} <= {"one", "two"}
    assert len(answers) == 2


def test_computing_goes_on_when_the_cache_cannot_be_used(cache: PromptCache) -> None:
    cache.directory.touch()
    with pytest.warns(CacheWarning):
        assert asyncio.run(cache.get_or_compute(KEY, Computer("answer"))) == ("answer", False)
