-- Where the feed stands, for a snapshot. Times are milliseconds.

-- Returns the id of the last entry. A missing feed is begun, so that there is a position to read on from.
local function feed_position(ttl_ms)
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
  if last then return last[1] end
  local begun = redis.call('XADD', KEYS[1], '*', 'begun', 'feed')
  redis.call('PEXPIRE', KEYS[1], ttl_ms)
  return begun
end
