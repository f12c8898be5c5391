"""The prompt cache: exact, in one SQLite file, safe among processes and under `kill -9`."""

from gristmill._cache._api import MISS, CacheStats, CacheWarning, Miss, PromptCache
from gristmill._cache._key import KeyPrefix, cache_key

__all__ = ["MISS", "CacheStats", "CacheWarning", "KeyPrefix", "Miss", "PromptCache", "cache_key"]
