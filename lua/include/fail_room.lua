-- Fail a live room with all its ranks, which then hold no part. The first reason and failed_by stay. Times are
-- milliseconds.
--
-- INCLUDE  counts, read_fields
--
-- At maxmemory only the first write of a script is refused, and only if it may need memory: so the TTL comes first.

local MAX_WORDS = 2000  -- of one call: unpack fails with many thousands

-- Returns the reason for the feed if it is the first, else false.
local function fail_room(room, has_ranks, reason, author, now_ms, ttl_ms)
  redis.call('PEXPIRE', room, ttl_ms)
  local changed, parts = {'status', 'Failed', 'updated_ms', now_ms}, {}
  if has_ranks then
    local fields = read_fields(room)
    for name in pairs(fields) do
      if string.find(name, '^status:') then
        changed[#changed + 1], changed[#changed + 2], fields[name] = name, 'Failed', 'Failed'
      elseif string.find(name, '^by:') then
        parts[#parts + 1] = name
      end
    end
    changed[#changed + 1], changed[#changed + 2] = 'counts', format_counts(count_ranks(fields))
    redis.call('HINCRBY', room, 'version', '1')
  end
  for first = 1, #changed, MAX_WORDS do
    redis.call('HSET', room, unpack(changed, first, math.min(first + MAX_WORDS - 1, #changed)))
  end
  for first = 1, #parts, MAX_WORDS do
    redis.call('HDEL', room, unpack(parts, first, math.min(first + MAX_WORDS - 1, #parts)))
  end
  local is_first = redis.call('HSETNX', room, 'reason', reason) == 1
  if author ~= '' then redis.call('HSETNX', room, 'failed_by', author) end
  return is_first and reason
end
