-- Clears a room for its ranks, as the fast path of write_ranks.lua has decided. Times are milliseconds.
--
-- INCLUDE  quick_ranks

local function append_quick(status, id, ttl_ms)
  local entry = ttl_ms and {'ttl_ms', ttl_ms, id, status} or {id, status}
  local n = #entry
  if changed > 0 then
    entry[n + 1], entry[n + 2] = 'rank:' .. table.concat(words, ',', 1, changed), common
  end
  local appended = redis.pcall('XADD', KEYS[1], 'NOMKSTREAM', 'MAXLEN', '~', ARGV[1], '*', unpack(entry))
  if appended and not appended.err then return appended end
  local text = appended and appended.err  -- as in changes.lua
  if text and (type(text) ~= 'string' or string.find(text, 'WRONGTYPE') or string.find(text, ' ID')) then
    redis.call('DEL', KEYS[1])
  end
  appended = redis.call('XADD', KEYS[1], '*', unpack(entry))
  redis.call('PEXPIRE', KEYS[1], '86400000')
  return appended
end

-- Returns the id of the feed's entry.
local function clear_quick(room, prefix, id)
  local is_over = counts[1] + counts[2] + counts[3] + counts[4] - counts[6] <= 0
  if is_over and redis.pcall('HGET', prefix, 'generation') == found[3] then
    redis.call('DEL', prefix)
  else
    local dropped = redis.pcall('HDEL', prefix, unpack(lengths))
    local text = type(dropped) == 'table' and dropped.err  -- as in is_other_type.lua
    if text and (type(text) ~= 'string' or string.find(text, 'WRONGTYPE', 1, true)) then redis.call('DEL', prefix) end
  end
  if is_over then
    redis.call('DEL', room)
    redis.pcall('ZREM', KEYS[4], id)
    outcomes[changed], changed = '8' .. string.sub(outcomes[changed], 2), 0
    return append_quick('absent', id, false)
  end
  redis.call('HSET', room, 'counts', table.concat(counts, ' '), unpack(entry, 1, size))
  redis.call('HDEL', room, unpack(gone))
  return append_quick(found[1], id, false)
end
