-- The end of the feed, as a mark: it proves later that a server has everything up to it. Times are milliseconds.

-- Returns the id of the last entry of a feed, and the first room that it names with its status; empty if there is none.
-- Of an entry that was written by hand, the id has to do.
local function feed_end(feed)
  local last = redis.pcall('XREVRANGE', feed, '+', '-', 'COUNT', '1')[1]
  if not last then return '', '', '' end
  local fields = last[2]
  local at = fields[1] == 'ttl_ms' and 3 or 1
  local named, status = fields[at] or '', fields[at + 1] or ''
  local is_room = named == '0' or (#named <= 19 and string.find(named, '^[1-9]%d*$'))
  if is_room and string.find(status, '^%a+$') then return last[1], named, status end
  return last[1], '', ''
end
