-- Fail a live room with all its ranks, which then hold no part. The first reason and failed_by stay. Times are
-- milliseconds.
--
-- At maxmemory only the first write of a script is refused, and only if it may need memory: so the TTL comes first.

-- Returns the reason for the feed if it is the first, else false.
local function fail_room(room, has_ranks, reason, author, now_ms, ttl_ms)
  redis.call('PEXPIRE', room, ttl_ms)
  if has_ranks then
    for _, name in ipairs(redis.call('HKEYS', room)) do
      if string.find(name, '^status:') then
        redis.call('HSET', room, name, 'Failed')
      elseif string.find(name, '^by:') then
        redis.call('HDEL', room, name)
      end
    end
    redis.call('HINCRBY', room, 'version', '1')
  end
  redis.call('HSET', room, 'status', 'Failed', 'updated_ms', now_ms)
  local is_first = redis.call('HSETNX', room, 'reason', reason) == 1
  if author ~= '' then redis.call('HSETNX', room, 'failed_by', author) end
  return is_first and reason
end
