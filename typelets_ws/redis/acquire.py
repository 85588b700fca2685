"""The script that takes one of a user's device slots, in one step at Redis.

Invariants. The answer and the registration are one step, so two processes never both
take the last slot. Members whose lease has ended are removed on the way. In a Cluster
every key that the script touches is declared: it returns the leases that it lacks, and
runs again with them. Tested by tests/integration/redis/test_limits.py.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import hiredis

from ..ports import AcquireResult
from .client import RedisClient

__all__ = ["ACQUIRE", "ACQUIRE_SHA", "Acquisition", "run_acquire"]

ACQUIRE: Final = b"""
if ARGV[4] ~= '' and redis.call('EXISTS', ARGV[4]) == 1 then return -1 end
local declared, missing = {}, {}
for index = 2, #KEYS do declared[KEYS[index]] = true end
local held, leases, ended = 0, {}, {}
for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local lease = string.sub(member, 1, 16)
  local key = ARGV[1] .. lease
  if member == ARGV[2] then return 1 end
  if ARGV[6] == 'declared' and not declared[key] then
    if not leases[lease] then missing[#missing + 1] = key end
    leases[lease] = 1
  else
    if leases[lease] == nil then leases[lease] = redis.call('EXISTS', key) end
    if leases[lease] == 1 then held = held + 1
    else ended[#ended + 1] = member end
  end
end
if #missing > 0 then return missing end
for _, member in ipairs(ended) do redis.call('SREM', KEYS[1], member) end
if held >= tonumber(ARGV[3]) then return 0 end
redis.call('SADD', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[5])
return 1
"""
ACQUIRE_SHA: Final = hashlib.sha1(ACQUIRE, usedforsecurity=False).hexdigest()
ANSWERS: Final = {
    1: AcquireResult.GRANTED,
    0: AcquireResult.FULL,
    -1: AcquireResult.REVOKED,
}
MAX_RUNS: Final = 5
"""New leases may come in between; each run declares all that were missing before."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Arguments of the script; `revoked` is empty when it is looked up elsewhere."""

    devices: bytes
    lease_prefix: bytes
    member: bytes
    limit: int
    revoked: bytes
    ttl_s: int
    declared: bool


async def run_acquire(commands: RedisClient, wanted: Acquisition) -> AcquireResult:
    """Run the script; raises `RedisUnavailableError` or `hiredis.ReplyError`."""
    leases: list[bytes] = []
    for _ in range(MAX_RUNS):
        arguments = (
            1 + len(leases),
            wanted.devices,
            *leases,
            wanted.lease_prefix,
            wanted.member,
            wanted.limit,
            wanted.revoked,
            wanted.ttl_s,
            b"declared" if wanted.declared else b"",
        )
        try:
            answer = await commands.call(b"EVALSHA", ACQUIRE_SHA, *arguments)
        except hiredis.ReplyError as exc:
            if not str(exc).startswith("NOSCRIPT"):
                raise
            answer = None
        if answer is None:
            answer = await commands.call(b"EVAL", ACQUIRE, *arguments)
        if not isinstance(answer, list):
            return ANSWERS[answer]
        leases += answer
    return AcquireResult.FULL
