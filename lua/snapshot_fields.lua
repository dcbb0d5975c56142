-- Read what statistics keep of each room, and the position of the feed at this moment. Times are milliseconds.
--
-- KEYS     feed; each: room
-- ARGV     nothing
-- REPLY    feed_id; each: status, left_ms, opening, updated_ms, owner
-- FEED     nothing
-- INCLUDE  feed_position
--
-- feed_id is 0-0 if there is no feed. opening is the id of the entry that tells the opening, or its time. For a key of
-- another type (made by hand), the error replaces the status.

local reply = {feed_position('')}
for i = 2, #KEYS do
  local fields, n = redis.pcall('HMGET', KEYS[i], 'status', 'opened', 'opened_ms', 'updated_ms', 'owner'), #reply
  reply[n + 1] = fields.err and fields or fields[1]
  reply[n + 2] = redis.call('PTTL', KEYS[i])
  reply[n + 3], reply[n + 4], reply[n + 5] = fields[2] or fields[3] or false, fields[4] or false, fields[5] or false
end
return reply
