-- Read what statistics keep of each room, and the position of the feed at this moment. Times are milliseconds.
--
-- KEYS     feed; each: room
-- ARGV     nothing
-- REPLY    feed_id; each: status, left_ms, opening, updated_ms, owner
-- FEED     nothing
--
-- feed_id is 0-0 if there is no feed, or none that can be read. opening is the id of the entry that tells the opening,
-- or its time; of a room that was restored after a loss of data, the time of its generation. For a key of another type
-- (made by hand), the error replaces the status.

-- A list of rooms needs no feed. Who needs it, reads it as well, and gets the error.
local last = redis.pcall('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
local reply = {last and last[1] or '0-0'}
for i = 2, #KEYS do
  local fields = redis.pcall(
    'HMGET', KEYS[i], 'status', 'opened', 'opened_ms', 'updated_ms', 'owner', 'replayed', 'generation'
  )
  local n, opening = #reply, fields[2] or fields[3] or false
  if fields[6] and #(fields[7] or '') == 16 then opening = string.sub(fields[7], 1, -4) end
  reply[n + 1] = fields.err and fields or fields[1]
  reply[n + 2] = redis.call('PTTL', KEYS[i])
  reply[n + 3], reply[n + 4], reply[n + 5] = opening, fields[4] or false, fields[5] or false
end
return reply
