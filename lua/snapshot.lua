-- Read the status of each room and its TTL, and the position of the feed at this moment. Times are milliseconds.
--
-- KEYS     feed; each: room
-- ARGV     feed_ttl_ms
-- REPLY    feed_id; each: status, left_ms
-- FEED     begun
-- INCLUDE  feed_position
--
-- A missing feed is started by the entry begun, so that feed_id is always a position in it; with an empty feed_ttl_ms
-- it is not, and feed_id is 0-0. For a key of another type (made by hand), the error replaces the status.

local reply = {feed_position(ARGV[1])}
for i = 2, #KEYS do
  reply[i * 2 - 2] = redis.pcall('HGET', KEYS[i], 'status')
  reply[i * 2 - 1] = redis.call('PTTL', KEYS[i])
end
return reply
