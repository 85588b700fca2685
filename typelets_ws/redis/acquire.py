"""The script that takes one of a user's device slots, in one step at Redis.

Invariant: the answer and the registration are one step, so two processes never both
take the last slot. Members whose lease has ended are removed on the way.
"""

import hashlib
from typing import Final

import hiredis

from ..ports import AcquireResult
from .commands import RedisClient

__all__ = ["ACQUIRE", "ACQUIRE_SHA", "run_acquire"]

ACQUIRE: Final = b"""
if ARGV[4] ~= '' and redis.call('EXISTS', ARGV[4]) == 1 then return -1 end
local held, eras = 0, {}
for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local era = string.sub(member, 1, 16)
  if eras[era] == nil then eras[era] = redis.call('EXISTS', ARGV[1] .. era) end
  if member == ARGV[2] then return 1 end
  if eras[era] == 1 then held = held + 1
  else redis.call('SREM', KEYS[1], member) end
end
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


async def run_acquire(
    commands: RedisClient, arguments: tuple[bytes | int, ...]
) -> AcquireResult:
    """Run the script; raises `RedisUnavailable` or `hiredis.ReplyError`."""
    try:
        answer = await commands.call(b"EVALSHA", ACQUIRE_SHA, *arguments)
    except hiredis.ReplyError as exc:
        if not str(exc).startswith("NOSCRIPT"):
            raise
        answer = await commands.call(b"EVAL", ACQUIRE, *arguments)
    return ANSWERS[answer]
