-- The position of the feed, for a snapshot. Times are milliseconds.

-- Returns the id of the last entry. A missing feed is started, so that there is a position from which to read on; with
-- an empty ttl_ms nothing is written, and the position is before all entries.
local function feed_position(ttl_ms)
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
  if last then return last[1] end
  if ttl_ms == '' then return '0-0' end
  local begun = redis.pcall('XADD', KEYS[1], '*', 'begun', 'feed')
  if type(begun) == 'table' then  -- as in feed.lua
    redis.call('DEL', KEYS[1])
    begun = redis.call('XADD', KEYS[1], '*', 'begun', 'feed')
  end
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
  return begun
end
