-- The end of the feed, as a mark: it proves later that a server has everything up to it. Times are milliseconds.

-- Returns the id of the last entry of a feed, and the first room that it names with its status; empty if there is none.
local function feed_end(feed)
  local last = redis.pcall('XREVRANGE', feed, '+', '-', 'COUNT', '1')[1]
  if not last then return '', '', '' end
  local fields = last[2]
  local at = fields[1] == 'ttl_ms' and 3 or 1
  return last[1], fields[at] or '', fields[at + 1] or ''
end
