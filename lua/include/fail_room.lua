-- Fail a live room with all its ranks, which then hold no part. The first reason and failed_by stay. Times are
-- milliseconds.
--
-- INCLUDE  order, counts, limit
--
-- At maxmemory only the first write of a script is refused, and only if it may need memory: so the TTL comes first.

local MAX_WORDS = 2000  -- of one call: unpack fails with many thousands

-- Returns the reason for the feed if it is the first, else false.
local function fail_room(room, has_ranks, reason, author, now_ms, ttl_ms)
  redis.call('PEXPIRE', room, ttl_ms)
  local changed, parts = {'status', 'Failed', 'updated_ms', now_ms}, {}
  if has_ranks then
    local words, counts = redis.call('HGETALL', room), {[0] = 0, 0, 0, 0, 0, 0}
    fields_read = fields_read + #words / 2
    for i = 1, #words, 2 do  -- as read_fields.lua and count_ranks, in half the time
      local name, kind = words[i], string.match(words[i], '^(%l+):%d+$')
      if kind == 'status' then
        changed[#changed + 1], changed[#changed + 2], counts[0] = name, 'Failed', counts[0] + 1
      elseif kind == 'by' then
        parts[#parts + 1] = name
      elseif kind == 'cleared' then
        local order = ORDER[words[i + 1]] or 4
        counts[order], counts[5] = counts[order] + 1, counts[5] + 1
      end
    end
    changed[#changed + 1], changed[#changed + 2] = 'counts', format_counts(counts)
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
